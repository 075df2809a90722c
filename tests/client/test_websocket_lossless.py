"""Whatever happens to a connection, each event is yielded once, in order, or declared in a gap.

The server is the plainest that could be: a list of events, and for each subscription how far it has
been served. It pushes in the order of the list, recovers what it still has, and is cut, expires,
forgets and restarts as the dice say.
"""

from random import Random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import EPOCH, matches
from twinwire.client.items import Item
from twinwire.client.websocket import Send, WebSocketReader
from twinwire.core.event import Event, Position, is_pattern
from twinwire.core.feed import Gap, Mode

CHANNELS = ["a.b", "a.c", "d"]
SELECTIONS = [["a.b"], ["a.b", "d"], ["a.*"], ["a.*", "a.b", "d"], [">", "*.b", "d"]]


class Server:
    """A log and one connection at a time."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.epoch = EPOCH
        self.log: list[tuple[int, str]] = []
        self.floors = dict.fromkeys(CHANNELS, 0)
        self.served: dict[str, int] = {}
        self.out: list[dict[str, Any]] = []

    @property
    def head(self) -> int:
        return self.log[-1][0] if self.log else 0

    def publish(self, channel: str) -> Position:
        self.log.append((self.head + self.dice.randint(1, 3), channel))
        return Position(self.epoch, self.head)

    def expire(self) -> None:
        """Evict a stretch of one channel; who has not been served it yet has lost track."""
        if self.log:
            upto, channel = self.dice.choice(self.log)
            self.floors[channel] = max(self.floors[channel], upto)
            for name in [name for name, served in self.served.items() if self.lost(name, served)]:
                self.forget(name)

    def lost(self, name: str, after: int) -> bool:
        """Whether some of what `name` selects after a position is gone."""
        return any(
            after < seq <= self.floors[channel] and matches(name, channel)
            for seq, channel in self.log
        )

    def restart(self) -> None:
        self.epoch += 1
        self.log, self.floors = [], dict.fromkeys(CHANNELS, 0)
        self.cut()

    def cut(self) -> None:
        self.served, self.out = {}, []

    def forget(self, name: str = "") -> None:
        """Have a subscriber subscribe again."""
        if self.served:
            name = name or self.dice.choice(sorted(self.served))
            del self.served[name]
            why = {"code": 2500, "reason": "insufficient state"}
            self.out.append({"push": {"channel": name, "unsubscribe": why}})

    def push(self) -> bool:
        """Push the next event to whoever has not been served it; whether there was one."""
        due = [
            (seq, name, channel)
            for seq, channel in self.log
            for name, served in self.served.items()
            if seq > max(served, self.floors[channel]) and matches(name, channel)
        ]
        for seq, name, channel in due:
            if seq == due[0][0]:
                self.served[name] = seq
                pub = self._publication(seq, name, channel)
                self.out.append({"push": {"channel": name, "pub": pub}})
        return bool(due)

    def hear(self, text: str) -> None:
        for command in map(msgspec.json.decode, text.split("\n")):
            if "connect" in command:
                self.out.append({"id": command["id"], "connect": {"ping": 25, "pong": True}})
            elif "subscribe" in command:
                self.out.append(
                    {"id": command["id"], "subscribe": self._subscribe(command["subscribe"])}
                )

    def _subscribe(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["channel"]
        assert name not in self.served
        after = request.get("offset", 0)
        known = request.get("epoch") == str(self.epoch) and after <= self.head
        if not known or self.lost(name, after):
            self.served[name] = self.head
            return {"epoch": str(self.epoch), "offset": self.head}
        missed = [each for each in self.log if each[0] > after and matches(name, each[1])]
        given = missed[: self.dice.randint(0, len(missed))]
        self.served[name] = given[-1][0] if given else after
        return {
            "epoch": str(self.epoch),
            "offset": after,
            "recovered": True,
            "publications": [self._publication(seq, name, channel) for seq, channel in given],
        }

    def _publication(self, seq: int, name: str, channel: str) -> dict[str, Any]:
        pub = {"data": seq, "offset": seq}
        return {**pub, "channel": channel} if is_pattern(name) else pub


class Client:
    """A reader on such a server."""

    def __init__(self, server: Server, selection: list[str]) -> None:
        self.server = server
        self.reader = WebSocketReader(selection, Mode.EVERY, Position(EPOCH, 0))
        self.items: list[Item] = []
        self.connect()

    def connect(self) -> None:
        self.server.cut()
        self.server.hear(self.reader.open().text)

    def take(self) -> None:
        """Take one message, and now and then stop in the middle of it."""
        dice = self.server.dice
        count = dice.choice([1, 1, 1, 4])
        message, self.server.out = self.server.out[:count], self.server.out[count:]
        for item in self.reader.receive(b"\n".join(map(msgspec.json.encode, message))):
            if isinstance(item, Send):
                self.server.hear(item.text)
            else:
                self.items.append(item)
                if dice.random() < 0.03:
                    self.connect()
                    return


LIKELY = ["publish", "push", "take"]
STEPS = [*LIKELY * 10, "cut", "forget", "expire", "restart"]


@given(
    st.lists(st.sampled_from(STEPS), max_size=150),
    st.integers(0, 2**32),
    st.sampled_from(SELECTIONS),
)
def test_each_event_is_yielded_once_in_order_or_declared_in_a_gap(
    steps: list[str], seed: int, selection: list[str]
) -> None:
    server = Server(Random(seed))
    client = Client(server, selection)
    published: list[tuple[Position, str]] = []
    for step in steps:
        match step:
            case "publish":
                channel = server.dice.choice(CHANNELS)
                published.append((server.publish(channel), channel))
            case "push":
                server.push()
            case "take":
                client.take()
            case "cut":
                client.connect()
            case "forget":
                server.forget()
            case "expire":
                server.expire()
            case "restart":
                server.restart()
                client.connect()
    settle(server, client)

    wanted = {
        position: channel
        for position, channel in published
        if any(matches(name, channel) for name in selection)
    }
    events = [item for item in client.items if isinstance(item, Event)]
    gaps = [item for item in client.items if isinstance(item, Gap)]
    places = [event.position for event in events]
    assert len(set(places)) == len(places)
    assert {event.position: event.channel for event in events}.items() <= wanted.items()
    for channel in CHANNELS:
        order = [event.position for event in events if event.channel == channel]
        assert order == sorted(order)
    for position, channel in wanted.items():
        assert position in places or any(
            gap.begin < position <= gap.end and matches(name, channel)
            for gap in gaps
            for name in gap.selectors
        )


def settle(server: Server, client: Client) -> None:
    """Reconnect and take everything."""
    client.connect()
    while server.out or server.push():
        client.take()
