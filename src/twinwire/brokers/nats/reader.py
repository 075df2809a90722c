"""Parts of a stream that is there already, asked for by number (`DIRECT.GET`; NATS ADR-31).

Any server that has a copy answers, also one that is a little behind: whoever asks says how far
there must be something, and asks again until there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgspec
from nats.aio.msg import Msg

from twinwire.brokers.nats.link import Gone, Link

_AT_ONCE: Final = 1000
"""Messages in one answer, at most."""

_BYTES: Final = 8 << 20
"""Bytes in one answer, about."""

_BEHIND: Final = 2.0
"""Seconds that a copy may be behind."""


class Message(NamedTuple):
    """A message of a stream: its number and what is in it."""

    number: int
    data: bytes


async def read(link: Link, stream: str, first: int, last: int) -> AsyncIterator[list[Message]]:
    """The messages `first` to `last` that are still there, some at a time, and where some are not,
    perhaps a few beyond. Raises `Gone`."""
    loop = asyncio.get_running_loop()
    patience = loop.time() + _BEHIND
    while first <= last:
        got = await _some(link, stream, first, min(_AT_ONCE, last - first + 1))
        if got:
            first = got[-1].number + 1
            patience = loop.time() + _BEHIND
            yield got
        elif loop.time() > patience:
            return
        else:
            await asyncio.sleep(0.05)


async def _some(link: Link, stream: str, first: int, count: int) -> list[Message]:
    answers = _Answers()
    inbox = link.new_inbox()
    unsubscribe = await link.subscribe(inbox, answers.take)
    link.over.add_done_callback(answers.stop)
    try:
        body = {"seq": first, "batch": count, "max_bytes": _BYTES, "next_by_subj": ">"}
        await link.publish_for(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(body), inbox)
        return await answers.all()
    finally:
        link.over.remove_done_callback(answers.stop)
        await unsubscribe()


class _Answers:
    """What comes, until the server says that it is all."""

    def __init__(self) -> None:
        self._got: list[Message] = []
        self._heard = asyncio.Event()
        self._done = False
        self._why = ""

    async def take(self, msg: Msg) -> None:
        headers = msg.headers or {}
        status = headers.get("Status")
        if status is None:
            self._got.append(Message(int(headers["Nats-Sequence"]), msg.data))
        elif status not in ("204", "404"):
            self._why = headers.get("Description", status)
        self._done = status is not None
        self._heard.set()

    def stop(self, over: asyncio.Future[str]) -> None:
        self._why = over.result()
        self._heard.set()

    async def all(self) -> list[Message]:
        while not self._done:
            self._heard.clear()
            if self._why:
                break
            try:
                async with asyncio.timeout(_SILENCE):
                    await self._heard.wait()
            except TimeoutError:
                self._why = "no answer"
        if self._why:
            raise Gone(f"nats: the log cannot be read: {self._why}")
        return self._got


_SILENCE: Final = 5.0
"""Seconds without any part of an answer after which none is expected."""
