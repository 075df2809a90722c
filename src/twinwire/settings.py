"""Every setting, once: its name, type, default, unit, and what happens at a limit.

A setting is taken from, in this order: the caller (command line or `Hub(...)`), the environment
(`TWINWIRE_PORT=9000`; lists as JSON), the TOML file. `docs/settings.md` is made from the
descriptions here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_origin

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from twinwire.core.event import Pattern, check_selector, is_pattern
from twinwire.core.grants import covered
from twinwire.core.log import Retention
from twinwire.errors import BadChannel, BadSettings

_PREFIX: Final = "TWINWIRE_"

# Where a service of the name `twinwire` exists, Kubernetes puts these into every container:
# TWINWIRE_SERVICE_HOST, TWINWIRE_PORT_8000_TCP, and TWINWIRE_PORT=tcp://10.0.0.1:8000.
_KUBERNETES: Final = re.compile(
    r"TWINWIRE_(SERVICE_(HOST|PORT\w*)=.*|PORT_\d+_(TCP|UDP|SCTP)\w*=.*|PORT=(tcp|udp|sctp)://.*)",
    re.DOTALL,
)

KIB = 1024
MIB = 1024 * KIB


def _selector(text: str) -> str:
    try:
        check_selector(text)
    except BadChannel as error:
        raise ValueError(str(error)) from None
    return text


Selector = Annotated[str, AfterValidator(_selector)]


class ChannelRule(BaseModel):
    """What holds for the channels that a pattern matches; the first rule that matches counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: Selector = Field(description="A channel name or pattern.")
    log_events: int = Field(
        default=0, ge=0, description="Events kept of each channel; 0 is no limit."
    )
    log_bytes: int = Field(
        default=0, ge=0, description="Bytes of data kept of each; 0 is no limit."
    )
    log_age: float = Field(
        default=0, ge=0, description="Seconds that events are kept; 0 is no limit."
    )
    slow: Literal["gap", "close"] = Field(
        default="gap",
        description="What a client gets that reads slower than events are evicted: a gap, or the "
        "end of its connection with 3008.",
    )
    presence: bool = Field(
        default=False,
        description="Whether it is known who is subscribed to each of them, on all nodes.",
    )


class Source(NamedTuple):
    """What a setting is set to, and where: `where` reads as in "port (in twinwire.toml)"."""

    value: Any
    where: str


class Settings(BaseModel):
    """All settings of a server or an embedded hub."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    # Where the server listens
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    workers: int = Field(
        default=1,
        ge=1,
        description="Processes of `twinwire serve` that share the port and the broker, which must "
        "not be memory:// or sqlite://. Limits hold for each of them.",
    )
    insecure: bool = Field(
        default=False, description="Listen beyond this machine although no API key is configured."
    )
    tls_cert: Path | None = Field(
        default=None,
        description="PEM file with the certificate and its chain: then https and wss are served, "
        "and nothing else.",
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file with its private key, if that is not in `tls_cert`."
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        default="info", description="What is logged: critical, error, warning, info or debug."
    )
    access_log: bool = Field(default=False, description="Log a line for each HTTP request.")

    # The log
    broker: str = Field(default="memory://", description="Where the log lives, as a URL.")
    log_events: int = Field(
        default=100_000,
        ge=1,
        description="Events kept in all. Older ones are evicted: a gap for readers.",
    )
    log_bytes: int = Field(
        default=256 * MIB, ge=KIB, description="Bytes of event data kept in all; evicted as above."
    )
    log_age: float = Field(
        default=3600.0,
        ge=0,
        description="Seconds that events are kept; 0 is no limit. Evicted as above.",
    )
    log_channels: int = Field(
        default=100_000,
        ge=16,
        description="Channels known at once. Over it the longest quiet ones are forgotten, "
        "with their history and their newest events.",
    )
    log_keys: int = Field(
        default=10_000,
        ge=1,
        description="Keys known of one channel. Over it the longest quiet key is forgotten.",
    )
    stored_events: int = Field(
        default=1_000_000,
        ge=1,
        description="Events that a broker other than memory:// keeps, about. Older ones are "
        "evicted. Clients that come back to positions beyond `log_events` get them from there.",
    )
    stored_bytes: int = Field(default=1024 * MIB, ge=KIB, description="The same in bytes of data.")
    stored_age: float = Field(
        default=86_400.0, ge=0, description="The same in seconds; 0 is no limit."
    )
    stored_keys: int = Field(
        default=1_000_000,
        ge=1,
        description="Keys of all channels whose newest events the broker keeps beyond that. Over "
        "it the longest quiet ones are forgotten.",
    )
    read_back_events: int = Field(
        default=10_000,
        ge=0,
        description="Events read from the broker, at most, for a client that comes back to a "
        "position older than this node's memory. What is older still is evicted: a gap.",
    )
    broker_wait: float = Field(
        default=10.0,
        gt=0,
        description="Seconds that a publish waits for a broker that cannot be reached. Then: 503.",
    )
    idempotency_window: float = Field(
        default=300.0,
        gt=0,
        description="Seconds that an idempotency key is remembered: an event published again under "
        "it is not published twice. Then it is a new one.",
    )
    idempotency_keys: int = Field(
        default=100_000,
        ge=1,
        description="Idempotency keys that memory:// and sqlite:// remember. Over it the oldest "
        "are forgotten.",
    )
    synchronous: Literal["off", "normal", "full", "extra"] = Field(
        default="normal",
        description="What SQLite does before a publish is acknowledged: see `PRAGMA synchronous`. "
        "With normal, what was acknowledged survives the end of the process, but perhaps not that "
        "of the machine; with full that too.",
    )
    channels: tuple[ChannelRule, ...] = Field(
        default=(),
        description="Rules for channel patterns, [[channels]] in the file; first match counts.",
    )

    # Presence and other nodes
    node_name: str = Field(
        default="twinwire", min_length=1, description="This node's name in `/api/info`."
    )
    presence_beat: float = Field(
        default=1.0,
        gt=0,
        description="Seconds between what a node tells the others that share its broker. One that "
        "is not heard for four times as long is dead to them: then its clients have left.",
    )
    presence_members: int = Field(
        default=5000,
        ge=1,
        description="Clients in a channel that an answer to presence lists. Over it: error 106; "
        "presence_stats still counts them.",
    )

    # Publishing
    api_key: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Key that the HTTP API asks for in X-API-Key. Without one, none is asked.",
    )
    event_max_bytes: int = Field(
        default=64 * KIB,
        ge=1,
        description="Bytes of one event's data. A larger one is refused (413).",
    )
    request_max_bytes: int = Field(
        default=MIB,
        ge=KIB,
        description="Bytes of an HTTP request's body. A larger one is refused (413).",
    )
    publish_ahead: int = Field(
        default=8192,
        ge=1,
        description="Events that may be published ahead of the fan-out; then publishers wait.",
    )
    publish_ahead_bytes: int = Field(
        default=4 * MIB, ge=KIB, description="The same in bytes of their data."
    )

    # What clients may do
    allow_subscribe: tuple[Selector, ...] = Field(
        default=(">",), description="Channels that clients may subscribe to."
    )
    allow_publish: tuple[Selector, ...] = Field(
        default=(), description="Channels that clients may publish to over their WebSocket."
    )
    channels_per_connection: int = Field(
        default=1000,
        ge=1,
        description="Channels of one connection. Over it: 400 on SSE, error 106 on WebSocket.",
    )
    connections: int = Field(
        default=0,
        ge=0,
        description="Connections in all; 0: as many as the process may have files. Over it: 503.",
    )
    connections_per_address: int = Field(
        default=0,
        ge=0,
        description="Streams of one client address, 0 for no limit (behind a proxy all may have "
        "one). Over it: 429 on SSE, close 3504 on WebSocket.",
    )
    connections_per_user: int = Field(
        default=0,
        ge=0,
        description="Streams of one user, as `authorize` names them; 0 for no limit. Over it: 429 "
        "on SSE, close 3504 on WebSocket.",
    )
    feeds_bytes: int = Field(
        default=1024 * MIB,
        ge=MIB,
        description="Bytes of memory that all subscriptions together may take, as reckoned by "
        "their number and names. Over it: 503 on SSE, error 106 on WebSocket.",
    )
    commands_per_second: int = Field(
        default=1000,
        ge=1,
        description="Commands of one connection in a second, and as many at once. Over it: error "
        "111.",
    )
    message_max_bytes: int = Field(
        default=64 * KIB,
        ge=KIB,
        description="Bytes of a WebSocket message. A larger one closes with 1009.",
    )
    commands_in_flight: int = Field(
        default=64,
        ge=1,
        description="Commands of one connection that run at once. Over it: error 111.",
    )
    echo: bool = Field(
        default=False, description="Serve /echo, a WebSocket that returns what it is sent."
    )

    # Keeping connections alive
    heartbeat: float = Field(
        default=15.0, gt=0, description="Seconds between the heartbeats of a stream over SSE."
    )
    retry: float = Field(
        default=2.0,
        gt=0,
        description="Seconds after which an SSE client reconnects, give or take half.",
    )
    ping: float = Field(default=25.0, gt=0, description="Seconds between the pings of a WebSocket.")
    pong_timeout: float = Field(
        default=8.0,
        gt=0,
        description="Seconds that a client has to answer a ping. Then: close 3012.",
    )
    connect_timeout: float = Field(
        default=10.0,
        gt=0,
        description="Seconds from a WebSocket's opening to its connect. Then: 3502.",
    )
    header_timeout: float = Field(
        default=10.0, gt=0, description="Seconds to send a request's head in. Then: closed."
    )
    header_max_bytes: int = Field(
        default=256 * KIB, ge=KIB, description="Bytes of it, about. A longer one is refused (431)."
    )
    body_timeout: float = Field(
        default=30.0,
        gt=0,
        description="Seconds for a body, or the next 64 KiB of it. Then: closed.",
    )
    lifetime: float = Field(
        default=0.0,
        ge=0,
        description="Seconds after which a stream is told to come back (3011), give or take a "
        "tenth; 0 for no limit.",
    )

    # Writing
    compression: bool = Field(
        default=True,
        description="Compress event streams (gzip) for clients that accept it, once for all that "
        "share a lane. Blocks of less than 300 bytes (100 if shared) stay as they are.",
    )
    ws_compression: bool = Field(
        default=False,
        description="Agree on permessage-deflate with WebSocket clients that offer it, as browsers "
        "do. Each message is compressed by itself, once for all that share a lane.",
    )
    slice_ms: float = Field(
        default=1.0,
        gt=0,
        description="Milliseconds of fan-out at a stretch before others are served.",
    )
    read_bytes: int = Field(
        default=128 * KIB,
        ge=KIB,
        description="Bytes read from the log at once for a client behind, or for one answer to "
        "history. Over it the rest is read next, and an answer to history says that there is more.",
    )
    replay_bytes: int = Field(
        default=16 * MIB,
        ge=0,
        description="Bytes kept encoded while many clients behind read the same. Over it they "
        "are forgotten and encoded anew.",
    )
    write_high: int = Field(
        default=32 * KIB,
        ge=KIB,
        description="Bytes waiting to be written to one client. Over it the client is full: it "
        "leaves its lane and reads the log again when they are gone.",
    )
    write_timeout: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that a full client may take nothing. Then its connection is closed.",
    )
    buffered_bytes: int = Field(
        default=1024 * MIB,
        ge=MIB,
        description="Bytes that may wait for all full clients together. Over it the fullest ones "
        "are closed with 3008.",
    )
    notsent_lowat: int = Field(
        default=16 * KIB,
        ge=0,
        description="TCP_NOTSENT_LOWAT: unsent bytes the kernel takes; 0 leaves it.",
    )
    user_timeout: float = Field(
        default=30.0,
        ge=0,
        description="TCP_USER_TIMEOUT in seconds: when an unanswering peer is dead.",
    )
    drain_time: float = Field(
        default=10.0,
        ge=0,
        description="Seconds over which clients are told to come back, at SIGTERM. A second signal "
        "and Ctrl-C end at once.",
    )

    @classmethod
    def load(
        cls,
        file: Path | None = None,
        given: Mapping[str, Any] | None = None,
        *,
        flags: Mapping[str, str] | None = None,
    ) -> Settings:
        """The settings from `given`, the environment and `file`; `flags` is as for `sources`.

        Raises `BadSettings`, whose text names each wrong setting, where it stands and what it
        should be.
        """
        return cls.of(sources(file, given, flags=flags))

    @classmethod
    def of(cls, found: Mapping[str, Source]) -> Settings:
        """The settings that are set so. Raises `BadSettings`, as `load` does."""
        try:
            return cls(**{name: source.value for name, source in found.items()})
        except ValidationError as error:
            raise BadSettings(_explain(error, found)) from None

    def closes_slow(self, selector: str) -> bool:
        """Whether a client too slow for `selector` is closed instead of being told a gap."""
        rule = self._rule(selector)
        return rule is not None and rule.slow == "close"

    def keeps_presence(self, selector: str) -> bool:
        """Whether it is known who is subscribed to `selector`. To a pattern it never is."""
        if is_pattern(selector):
            return False
        rule = self._rule(selector)
        return rule is not None and rule.presence

    def _rule(self, selector: str) -> ChannelRule | None:
        """The rule that counts for all that `selector` matches."""
        for rule in self.channels:
            if covered(selector, (rule.pattern,)):
                return rule
        return None

    def retention(self) -> Retention:
        """Retention of the whole log."""
        return Retention(self.log_events, self.log_bytes, int(self.log_age * 1000))

    def stored(self) -> Retention:
        """What a broker keeps."""
        return Retention(self.stored_events, self.stored_bytes, int(self.stored_age * 1000))

    def retention_rules(self) -> list[tuple[Pattern, Retention]]:
        """Retention by channel pattern."""
        return [
            (Pattern(r.pattern), Retention(r.log_events, r.log_bytes, int(r.log_age * 1000)))
            for r in self.channels
        ]


def sources(
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    flags: Mapping[str, str] | None = None,
) -> dict[str, Source]:
    """What is set, by name, and where: in `given`, else in the environment, else in `file`.

    `flags` gives the names under which the caller's user knows what is in `given`. Nothing is
    checked yet, but that the file can be read. Raises `BadSettings`.
    """
    found = {} if file is None else {k: Source(v, f"in {file}") for k, v in _read(file).items()}
    for variable, text in os.environ.items():
        if variable.upper().startswith(_PREFIX) and not _KUBERNETES.match(f"{variable}={text}"):
            name = variable[len(_PREFIX) :].lower()
            where = f"{variable} in the environment"
            found[name] = Source(value_of(name, text, where), where)
    for name, value in (given or {}).items():
        found[name] = Source(value, (flags or {}).get(name, "given"))
    return found


def value_of(name: str, text: str, where: str) -> Any:
    """The value that `text` writes for the setting `name`: lists are JSON, all else is itself.

    Raises `BadSettings`; `where` is for its message.
    """
    field = Settings.model_fields.get(name)
    if field is None or get_origin(field.annotation) is not tuple:
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadSettings(
            f'{name} ({where}) should be a list in JSON, such as ["news", "prices.*"]: {error}'
        ) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise BadSettings(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{file}: not TOML: {error}") from None


_SAID: Final = {
    "string_too_short": " should not be empty",
    "too_short": " should not be empty",
    "tuple_type": " should be a list",
    "model_type": " should be a table",
}
"""What pydantic says in the words of Python rather than of a configuration."""


def _explain(error: ValidationError, found: Mapping[str, Source]) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        first, *rest = (str(part) for part in problem["loc"])
        name = ".".join([first, *rest])
        where = found[first].where if first in found else "by default"
        if problem["type"] == "extra_forbidden":
            close = [] if rest else get_close_matches(name, Settings.model_fields, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            problems.append(f"there is no setting {name} ({where}){hint}")
        else:
            what = _SAID.get(problem["type"]) or problem["msg"]
            # "Input should be …" says the same about a name as about an input.
            what = what.removeprefix("Input").replace("Value error, ", ": ", 1)
            problems.append(f"{name} ({where}){what}")
    return "; ".join(problems)
