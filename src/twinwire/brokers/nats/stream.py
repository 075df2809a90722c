"""The streams on the server: the log, and the newest events of keys.

Both are made when they are not there, and brought up to the settings when they are. A stream of the
same name that is not ours is left alone.
"""

from __future__ import annotations

import base64
import re
import time
from datetime import UTC, datetime
from typing import Any, Final

from twinwire.brokers.base import Config
from twinwire.brokers.nats import epochs
from twinwire.brokers.nats.address import Address
from twinwire.brokers.nats.epochs import Found, Known, Renewal, Stored
from twinwire.brokers.nats.link import ApiError, Link
from twinwire.errors import BrokerError

_OURS: Final = "twinwire"
_EPOCHS: Final = "twinwire-epochs"
"""Names in the streams' metadata: what a stream is of ours, and `Found.renewals`."""

_NOT_FOUND: Final = 10059
_NAME_TAKEN: Final = 10058
_NO_MESSAGE: Final = 10037

_AHEAD: Final = 1000
"""Milliseconds by which a log is younger than its stream, at least: it is made before it."""

_SHORTEST_WINDOW: Final = 0.1
"""Seconds that the server remembers ids, at least."""

_NEEDS_LIMIT: Final = 10113
_ROOM: Final = 1 << 30
"""Bytes that a stream may grow to beyond twice what is kept, where an account demands a limit. The
server reserves them, so there is none elsewhere."""

_NS: Final = 1_000_000_000
_TIME: Final = re.compile(r"(.+?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class Streams:
    """The names, and what the settings say of them."""

    def __init__(self, address: Address, config: Config) -> None:
        hub = self.log = address.hub
        self.keys = f"{hub}-keys"
        self.checkpoint = f"{hub}.keys.checkpoint"
        self.notices = f"{hub}.notices"
        self.renewed = f"{hub}.renewed"
        self._replicas = address.replicas
        self._config = config
        self.skew = 0
        """By how many ms the server's clock is ahead of this node's."""

    def subject(self, epoch: int) -> str:
        """The log's, for what is written in that epoch."""
        return f"{self.log}.log.{epoch}"

    def key(self, identity: str) -> str:
        """The subject of a key's newest event."""
        return f"{self.log}.keys.key.{identity}"

    async def find(self, link: Link) -> Found:
        """The log, made if it is not there. Raises `BrokerError`."""
        info = await self._info(link, self.log, self._log)
        if "ts" in info:
            self.skew = (nanoseconds(info["ts"]) - time.time_ns()) // 1_000_000
        await self._info(link, self.keys, self._keys)
        return self._found(info)

    async def look(self, link: Link) -> Found:
        """The log as it is. Raises `BrokerError`."""
        return self._found(await link.api(f"STREAM.INFO.{self.log}"))

    async def renew(
        self, link: Link, found: Found, known: Known | None, told: Known | None
    ) -> Found:
        """Begin a new epoch. `known` is the newest message that this node knows, `told` the newest
        of which it knows the time. Raises `BrokerError`."""
        survived = await self._survived(link, found, told)
        renewals = epochs.renew(found, known, survived, time.time_ns() // 1_000_000)
        info = await link.api(f"STREAM.INFO.{self.log}")
        config = info["config"] | self._epoch(info["config"], renewals)
        info = await link.api(f"STREAM.UPDATE.{self.log}", config)
        await link.publish(self.renewed)
        return self._found(info)

    async def _survived(self, link: Link, found: Found, told: Known | None) -> int:
        if told is None or not told.time:
            return found.last
        # What is older than the newest message that this node was told of is in its old place.
        seconds, rest = divmod(told.time + 1, _NS)
        moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        try:
            later = await link.api(
                f"STREAM.MSG.GET.{self.log}", {"start_time": f"{moment}.{rest:09}Z"}
            )
        except ApiError as error:
            if error.code != _NO_MESSAGE:
                raise
            return found.last
        return int(later["message"]["seq"]) - 1

    async def stored(self, link: Link, number: int) -> Stored | None:
        """What tells a message of the log from others; None if it is not there."""
        message = await self._message(link, self.log, {"seq": number})
        if message is None:
            return None
        return Stored(nanoseconds(message["time"]), _header(message, "Nats-Msg-Id"))

    async def newest_checkpoint(self, link: Link) -> tuple[int, bytes]:
        """The number and the data of the newest checkpoint; 0 and nothing if there is none."""
        message = await self._message(link, self.keys, {"last_by_subj": self.checkpoint})
        if message is None:
            return 0, b""
        return int(message["seq"]), base64.b64decode(message.get("data", ""))

    @staticmethod
    async def _message(link: Link, stream: str, which: dict[str, object]) -> dict[str, Any] | None:
        try:
            answer = await link.api(f"STREAM.MSG.GET.{stream}", which)
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise
        message: dict[str, Any] = answer["message"]
        return message

    # Making and checking

    async def _info(self, link: Link, name: str, wanted: Any) -> dict[str, Any]:
        limit: dict[str, Any] = {}
        for _ in range(4):
            try:
                info = await link.api(f"STREAM.INFO.{name}")
            except ApiError as error:
                if error.code != _NOT_FOUND:
                    raise
                config = wanted({}) | limit
                if not self._replicas:
                    config["num_replicas"] = 1
                try:
                    info = await link.api(f"STREAM.CREATE.{name}", config)
                    if name == self.log:
                        await link.publish(self.renewed)
                except ApiError as refusal:
                    if refusal.code == _NAME_TAKEN:
                        continue  # another node was faster
                    if refusal.code == _NEEDS_LIMIT and not limit:
                        limit = {"max_bytes": 2 * self._config.keep.bytes + _ROOM}
                        continue
                    raise BrokerError(
                        f"nats: the stream {name} cannot be made: {refusal.text}"
                    ) from None
            config = info["config"]
            kind = "keys" if name == self.keys else "log"
            if (config.get("metadata") or {}).get(_OURS) != kind:
                raise BrokerError(
                    f"nats: there is a stream {name} that is not twinwire's: "
                    "choose another name with ?hub=NAME, or delete it"
                )
            if any(config.get(field) != value for field, value in wanted(config).items()):
                try:
                    info = await link.api(f"STREAM.UPDATE.{name}", config | wanted(config))
                except ApiError as refusal:
                    raise BrokerError(
                        f"nats: the stream {name} cannot be brought up to the settings: "
                        f"{refusal.text}"
                    ) from None
            return info
        raise BrokerError(f"nats: the stream {name} is made and deleted again and again")

    def _common(self, name: str, kind: str, before: dict[str, Any]) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "name": name,
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_age": 0,
            "allow_atomic": True,
            "allow_direct": True,
            "metadata": (before.get("metadata") or {}) | {_OURS: kind},
        }
        if self._replicas:
            wanted["num_replicas"] = self._replicas
        return wanted

    def _log(self, before: dict[str, Any]) -> dict[str, Any]:
        """What the settings say of the log. It is not the server who trims it: see `book`."""
        window = max(self._config.idempotency_window, _SHORTEST_WINDOW)
        wanted = self._common(self.log, "log", before) | {
            "max_msgs": -1,
            "duplicate_window": int(window * _NS),
        }
        if not before:
            epoch = time.time_ns() // 1_000_000 + _AHEAD
            wanted |= self._epoch(wanted, (Renewal(epoch, 0),))
        return wanted

    def _epoch(self, config: dict[str, Any], renewals: tuple[Renewal, ...]) -> dict[str, Any]:
        metadata = config["metadata"] | {_EPOCHS: epochs.write(renewals)}
        return {"subjects": [self.subject(renewals[-1].epoch)], "metadata": metadata}

    def _keys(self, before: dict[str, Any]) -> dict[str, Any]:
        return self._common(self.keys, "keys", before) | {
            "subjects": [f"{self.log}.keys.>"],
            "max_msgs_per_subject": 1,
            "max_msgs": self._config.keys_max + 1,  # and the checkpoint
        }

    def _found(self, info: dict[str, Any]) -> Found:
        config, state = info["config"], info["state"]
        subject = (config.get("subjects") or [""])[0]
        head, _, epoch = subject.rpartition(".")
        if head != f"{self.log}.log" or not epoch.isdigit():
            raise BrokerError(
                f"nats: the stream {self.log} has the subject {subject}, which is not twinwire's"
            )
        last = int(state["last_seq"])
        renewals = epochs.read((config.get("metadata") or {}).get(_EPOCHS, ""))
        if not renewals or renewals[-1].epoch != int(epoch):
            renewals = (*renewals, Renewal(int(epoch), 0))
        return Found(
            int(epoch),
            nanoseconds(info["created"]) // 1_000_000,
            int(state["first_seq"]) if state["messages"] else last + 1,
            last,
            renewals,
        )


def nanoseconds(text: str) -> int:
    """A time as JetStream writes it (RFC 3339), in ns since 1970."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise BrokerError(f"nats: {text!r} is not a time")
    moment = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    return int(moment.timestamp()) * _NS + int((match[2] or "").ljust(9, "0"))


def _header(message: dict[str, Any], name: str) -> str:
    lines = base64.b64decode(message.get("hdrs", "")).decode(errors="replace").split("\r\n")
    for line in lines:
        before, _, value = line.partition(":")
        if before == name:
            return value.strip()
    return ""
