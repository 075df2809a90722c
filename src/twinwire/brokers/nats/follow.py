"""The log as it grows: a consumer of the server's that pushes to this node.

It acknowledges nothing, keeps nothing on disk, and ends with the connection. Whatever is not as it
should be, a number left out, no heartbeat, another subject, ends the connection: a new one looks at
the log again from what is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from nats.aio.msg import Msg

from twinwire.brokers.nats.link import Gone, Link

_HEARTBEAT: Final = 0.5
"""Seconds between signs of life."""

_MISSED: Final = 5
"""So many of them in a row are missed when something is wrong."""

_NS: Final = 1_000_000_000


class Told(NamedTuple):
    """A message that came: its number, when it was stored in ns, and what is in it."""

    number: int
    time: int
    data: bytes


class Follower:
    """Hands on what comes, as much at once as there is."""

    def __init__(self, link: Link, subject: str, take: Callable[[list[Told]], None]) -> None:
        """`subject` is the only one that messages may have."""
        self._link = link
        self._subject = subject
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._came: list[Told] = []
        self._count = 0
        self._alive = True
        self._missed = 0
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, stream: str, after: int) -> None:
        """Begin after that message. Raises `BrokerError`."""
        link = self._link
        link.over.add_done_callback(self._stop)
        inbox = link.new_inbox()
        await link.subscribe(inbox, self._heard)
        name = inbox.rpartition(".")[2]
        config = {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(_HEARTBEAT * _NS),
            "inactive_threshold": 10 * _NS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        await link.api(
            f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config}
        )
        self._timer = self._loop.call_later(_HEARTBEAT, self._watch)

    def _stop(self, over: asyncio.Future[str]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._came.clear()

    def _watch(self) -> None:
        # Counted by turns and not by the clock: a loop that was held up has not read either.
        self._missed = 0 if self._alive else self._missed + 1
        self._alive = False
        if self._missed >= _MISSED:
            self._link.end("the log's consumer is silent")
        else:
            self._timer = self._loop.call_later(_HEARTBEAT, self._watch)

    async def _heard(self, msg: Msg) -> None:
        self._alive = True
        if self._link.over.done():
            return
        headers = msg.headers
        if headers is not None and "Status" in headers:
            await self._signal(msg, headers)
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<number>.<count>.<time>.<pending>, or with the
        # domain and the account before the stream (NATS ADR-15).
        fields = msg.reply.split(".")
        at = 5 if len(fields) == 9 else 7
        self._count += 1
        if int(fields[at + 1]) != self._count:
            self._link.end("messages of the log were left out")
        elif msg.subject != self._subject:
            self._link.end("the log has a new epoch")
        else:
            if not self._came:
                self._loop.call_soon(self._hand_on)
            self._came.append(Told(int(fields[at]), int(fields[at + 2]), msg.data))

    async def _signal(self, msg: Msg, headers: dict[str, str]) -> None:
        answer = msg.reply or headers.get("Nats-Consumer-Stalled", "")
        count = headers.get("Nats-Last-Consumer")
        try:
            if answer:  # flow control: go on
                await self._link.publish(answer)
        except Gone:
            return
        if headers["Status"] != "100":
            self._link.end(f"the log's consumer has ended: {headers.get('Description', '')}")
        elif count is not None and int(count) > self._count:
            self._link.end("messages of the log were left out")

    def _hand_on(self) -> None:
        came, self._came = self._came, []
        if came:
            self._take(came)
