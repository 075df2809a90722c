"""Messages that are stored together or not at all (NATS ADR-50)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple

import msgspec

from twinwire.brokers.nats.link import Link, refused

_NOTHING: Final[dict[str, str]] = {}
_batches = count()
_run = secrets.token_hex(6)


TOO_MANY: Final = 10199
"""JetStream's answer to more messages at once than it is set to take (1000 by default)."""


class Letter(NamedTuple):
    """A message to be stored."""

    subject: str
    data: bytes
    headers: dict[str, str] = _NOTHING


class Ack(NamedTuple):
    """That it is: the number of the last of the messages, and whether it was there before."""

    number: int
    duplicate: bool


async def store(link: Link, letters: Sequence[Letter]) -> Ack:
    """Store them next to each other. Raises `ApiError`, `Gone` and `BrokerError`."""
    *others, last = letters
    headers = last.headers
    before = None
    if others:
        batch = f"{_run}.{next(_batches)}"
        number = str(len(letters))
        headers = headers | _batch(batch, number) | {"Nats-Batch-Commit": "1"}
        before = _send(link, others, batch)
    msg = await link.request(last.subject, last.data, headers or None, before)
    answer = msgspec.json.decode(msg.data)
    if "error" in answer:
        raise refused(answer)
    return Ack(int(answer["seq"]), bool(answer.get("duplicate", False)))


async def _send(link: Link, letters: Sequence[Letter], batch: str) -> None:
    for number, letter in enumerate(letters, 1):
        headers = letter.headers | _batch(batch, str(number))
        await link.publish(letter.subject, letter.data, headers)


def _batch(id: str, number: str) -> dict[str, str]:
    return {"Nats-Batch-Id": id, "Nats-Batch-Sequence": number}
