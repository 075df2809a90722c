"""What is said to the HTTP API and what it answers, as bytes: `POST /api/batch`.

::

    {
        "commands": [
            {"publish": {"channel": "a", "data": 1}},
            {"publish": {"channel": "b", "data": 2}},
        ]
    }
    {
        "replies": [
            {"publish": {"offset": 7, "epoch": "1763800000000"}},
            {"error": {"code": 107, "message": "bad request"}},
        ]
    }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from twinwire.core.event import Position, check_channel
from twinwire.errors import BadEvent, BadFrame, BadPosition, CommandError


class _Place(msgspec.Struct):
    offset: int
    epoch: str


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    temporary: bool = False


class _Reply(msgspec.Struct):
    publish: _Place | None = None
    error: _Error | None = None


class _Replies(msgspec.Struct):
    replies: list[_Reply]


_replies: Final = msgspec.json.Decoder(_Replies).decode


def publish(
    channel: str,
    data: Any,
    key: str | None = None,
    type: str | None = None,
    tags: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
) -> bytes:
    """The command that publishes one event. Raises `BadChannel`, and `BadEvent` for its data.

    `data` may be `msgspec.Raw` (JSON as it is), `bytes`, or anything that JSON can hold.
    """
    check_channel(channel)
    fields: dict[str, Any] = {"channel": channel}
    if isinstance(data, bytes | bytearray | memoryview):
        fields["b64data"] = bytes(data)
    else:
        fields["data"] = data
    given = {"key": key, "type": type, "tags": tags, "idempotency_key": idempotency_key}
    fields |= {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.json.encode({"publish": fields})
    except (TypeError, ValueError, RecursionError) as error:
        raise BadEvent("data", f"cannot be written as JSON: {error}") from None


def batch(commands: Sequence[bytes]) -> bytes:
    """The body that carries these commands."""
    return b'{"commands":[%b]}' % b",".join(commands)


def replies(body: bytes, count: int) -> list[Position | CommandError]:
    """What became of each of `count` commands. Raises `BadFrame` for anything else."""
    try:
        found = [_result(reply) for reply in _replies(body).replies]
    except (msgspec.DecodeError, UnicodeError, BadPosition) as error:
        raise BadFrame(f"not the answer of a twinwire server: {error}") from None
    if len(found) != count:
        raise BadFrame(f"{len(found)} replies to {count} commands")
    return found


def _result(reply: _Reply) -> Position | CommandError:
    if reply.publish is not None:
        return Position.parse(f"{reply.publish.epoch}-{reply.publish.offset}")
    error = reply.error or _Error(message="no result")
    return CommandError(error.code, error.message, temporary=error.temporary)
