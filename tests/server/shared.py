"""A hub whose log is the tests' log server at the port in `LOG_PORT`, for several processes."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from twinwire import Hub
from twinwire.brokers.base import Tail
from twinwire.brokers.record import pack, unpack
from twinwire.core.event import Draft, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.errors import BrokerError


class LogBroker:
    """As much of the contract as the tests of workers need: a lost connection stays lost."""

    shared = True

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoch = 0
        self._waiting: deque[asyncio.Future[list[Position]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def open(self, tail: Tail) -> None:
        try:
            reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=2**26
            )
        except OSError:
            raise BrokerError(f"there is no log at port {self._port}: start it") from None
        warm = asyncio.Event()
        self._task = asyncio.create_task(self._follow(reader, tail, warm))
        await warm.wait()

    async def _follow(self, reader: asyncio.StreamReader, tail: Tail, warm: asyncio.Event) -> None:
        while line := await reader.readline():
            match msgspec.json.decode(line):
                case {"begin": epoch}:
                    self._epoch = epoch
                    tail.begin(Position(epoch, 0), ())
                case {"events": records}:
                    tail.deliver(
                        [
                            unpack(base64.b64decode(text), Position(self._epoch, seq), time)
                            for seq, time, text in records
                        ]
                    )
                case {"answer": seqs}:
                    self._waiting.popleft().set_result([Position(self._epoch, n) for n in seqs])
                case {"notice": notice}:
                    tail.hear(base64.b64decode(notice))
                case _:
                    warm.set()

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        answer: asyncio.Future[list[Position]] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        records = [pack(draft) for draft in drafts]
        self._writer.write(msgspec.json.encode({"append": records}) + b"\n")
        return await answer

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        return Earlier(upto, [], upto)

    async def tell(self, notice: bytes) -> None:
        self._writer.write(msgspec.json.encode({"notice": notice}) + b"\n")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._writer.close()


hub = Hub(
    LogBroker(int(os.environ["LOG_PORT"])),
    tls_cert=os.environ.get("TLS_CERT"),
    tls_key=os.environ.get("TLS_KEY"),
)


@hub.command("hang")
async def hang() -> None:
    """Holds the loop."""
    time.sleep(60)  # noqa: ASYNC251 (that is what it is for)
