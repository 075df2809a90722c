"""Every setting, once: its name, type, default, unit, and what happens at a limit.

A setting is taken from, in this order: the caller (command line or `Hub(...)`), the environment
(`TWINWIRE_PORT=9000`; lists and tables as JSON), the TOML file. `docs/settings.md` is made from the descriptions here.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from twinwire.core.event import Pattern, check_selector
from twinwire.core.log import Retention
from twinwire.errors import BadChannel, BadSettings

_PREFIX = "twinwire_"
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
    log_events: int = Field(0, ge=0, description="Events kept of each channel; 0 is no limit.")
    log_bytes: int = Field(0, ge=0, description="Bytes of data kept of each; 0 is no limit.")
    log_age: float = Field(0, ge=0, description="Seconds that events are kept; 0 is no limit.")


class Settings(BaseSettings):
    """All settings of a server or an embedded hub."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    # Where the server listens
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    insecure: bool = Field(
        False, description="Listen beyond this machine although no API key is configured."
    )
    log_level: str = Field(
        "info",
        pattern="^(critical|error|warning|info|debug)$",
        description="What is logged: critical, error, warning, info or debug.",
    )
    access_log: bool = Field(False, description="Log a line for each HTTP request.")

    # The log
    broker: str = Field("memory://", description="Where the log lives, as a URL.")
    log_events: int = Field(
        100_000, ge=1, description="Events kept in all. Older ones are evicted: a gap for readers."
    )
    log_bytes: int = Field(
        256 * MIB, ge=KIB, description="Bytes of event data kept in all; evicted as above."
    )
    log_age: float = Field(
        3600.0, ge=0, description="Seconds that events are kept; 0 is no limit. Evicted as above."
    )
    log_channels: int = Field(
        100_000,
        ge=16,
        description="Channels known at once. Over it the longest quiet ones are forgotten, "
        "with their history and their newest events.",
    )
    log_keys: int = Field(
        10_000,
        ge=1,
        description="Keys known of one channel. Over it the longest quiet key is forgotten.",
    )
    channels: tuple[ChannelRule, ...] = Field(
        (), description="Rules for channel patterns, [[channels]] in the file; first match counts."
    )

    # Publishing
    api_key: SecretStr | None = Field(
        None, description="Key that the HTTP API asks for in X-API-Key. Without one, none is asked."
    )
    event_max_bytes: int = Field(
        64 * KIB, ge=1, description="Bytes of one event's data. A larger one is refused (413)."
    )
    request_max_bytes: int = Field(
        MIB, ge=KIB, description="Bytes of an HTTP request's body. A larger one is refused (413)."
    )
    publish_ahead: int = Field(
        8192,
        ge=1,
        description="Events that may be published ahead of the fan-out; then publishers wait.",
    )

    # What clients may do
    allow_subscribe: tuple[Selector, ...] = Field(
        (">",), description="Channels that clients may subscribe to."
    )
    allow_publish: tuple[Selector, ...] = Field(
        (), description="Channels that clients may publish to over their WebSocket."
    )
    channels_per_connection: int = Field(
        1000,
        ge=1,
        description="Channels of one connection. Over it: 400 on SSE, error 106 on WebSocket.",
    )
    message_max_bytes: int = Field(
        64 * KIB, ge=KIB, description="Bytes of a WebSocket message. A larger one closes with 1009."
    )
    commands_in_flight: int = Field(
        64, ge=1, description="Commands of one connection that run at once. Over it: error 111."
    )
    echo: bool = Field(False, description="Serve /echo, a WebSocket that returns what it is sent.")

    # Keeping connections alive
    heartbeat: float = Field(
        15.0, gt=0, description="Seconds between the heartbeats of a stream over SSE."
    )
    retry: float = Field(
        2.0, gt=0, description="Seconds after which an SSE client reconnects, give or take half."
    )
    ping: float = Field(25.0, gt=0, description="Seconds between the pings of a WebSocket.")
    pong_timeout: float = Field(
        8.0, gt=0, description="Seconds that a client has to answer a ping. Then: close 3012."
    )
    connect_timeout: float = Field(
        10.0, gt=0, description="Seconds from a WebSocket's opening to its connect. Then: 3502."
    )

    # Writing
    slice_ms: float = Field(
        2.0, gt=0, description="Milliseconds of fan-out at a stretch before others are served."
    )
    read_bytes: int = Field(
        128 * KIB, ge=KIB, description="Bytes read from the log at once for a client behind."
    )
    write_high: int = Field(
        64 * KIB,
        ge=KIB,
        description="Bytes waiting to be written to one client. Over it the client is full: it "
        "leaves its lane and reads the log again when they are gone.",
    )
    notsent_lowat: int = Field(
        16 * KIB, ge=0, description="TCP_NOTSENT_LOWAT: unsent bytes the kernel takes; 0 leaves it."
    )
    user_timeout: float = Field(
        30.0, ge=0, description="TCP_USER_TIMEOUT in seconds: when an unanswering peer is dead."
    )
    drain_time: float = Field(
        1.0, ge=0, description="Seconds over which clients are told to come back at the end."
    )

    @classmethod
    def load(cls, file: Path | None = None, given: Mapping[str, Any] | None = None) -> Settings:
        """The settings from `given`, the environment and `file`.

        Raises `BadSettings`, whose text names each wrong setting, where it stands and what it
        should be.
        """
        given = dict(given or {})
        from_file = _read(file) if file is not None else {}
        from_environment = {
            name.lower().removeprefix(_PREFIX): name
            for name in os.environ
            if name.lower().startswith(_PREFIX)
        }
        for name, variable in from_environment.items():
            if name not in cls.model_fields:
                raise BadSettings(f"{variable} in the environment: there is no setting {name}")
        lower = {k: v for k, v in from_file.items() if k not in from_environment}
        try:
            return cls(**{**lower, **given})
        except (ValidationError, SettingsError) as error:
            where = {
                **{name: f"in {file}" for name in lower},
                **{name: f"{variable} in the environment" for name, variable in from_environment.items()},
                **{name: "given" for name in given},
            }
            raise BadSettings(_explain(error, where)) from None

    def retention(self) -> Retention:
        """Retention of the whole log."""
        return Retention(self.log_events, self.log_bytes, int(self.log_age * 1000))

    def retention_rules(self) -> list[tuple[Pattern, Retention]]:
        """Retention by channel pattern."""
        return [
            (Pattern(r.pattern), Retention(r.log_events, r.log_bytes, int(r.log_age * 1000)))
            for r in self.channels
        ]


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise BadSettings(f"{file}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{file}: not TOML: {error}") from None


def _explain(error: ValidationError | SettingsError, where: Mapping[str, str]) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    problems = []
    for problem in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"])
        source = where.get(str(problem["loc"][0]) if problem["loc"] else "", "")
        if problem["type"] == "extra_forbidden":
            problems.append(f"there is no setting {name} ({source})")
        else:
            problems.append(f"{name} ({source}): {problem['msg']}")
    return "; ".join(problems)
