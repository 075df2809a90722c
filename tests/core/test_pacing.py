"""Paced lanes in a time of our own: how often their members are told, and how old it is by then."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import EPOCH, event
from tests.core.wires import Part, TestWire, stream
from twinwire.core.event import Position
from twinwire.core.feed import Feed, Gap, Mode, Start
from twinwire.core.lane import Lanes
from twinwire.core.log import Log, Retention

ENOUGH = 1 << 20
PACE = 100
KEYS = ["k", "l", "m"]


class Told(NamedTuple):
    """What a client was told at one time; `seqs` in the order of the wire."""

    at: int
    seqs: list[int]


class Client:
    """A paced client. While it is full it takes nothing and is out of its lane."""

    def __init__(self, wire: TestWire, since: int) -> None:
        self.wire = wire
        self.since = since
        self.feed = Feed(wire, self, pace=PACE)
        self.full = False
        self.told: list[Told] = []

    @property
    def seqs(self) -> list[int]:
        return [seq for told in self.told for seq in told.seqs]


class Ground:
    """A log and its lanes, with a clock that only goes on when it is told to."""

    def __init__(self, *, retained: int = 0) -> None:
        self.now = 0
        self.log = Log(EPOCH, retention=Retention(events=retained))
        self.lanes = Lanes()
        self.wire = stream()
        self.clients: list[Client] = []
        self.times: dict[int, int] = {}
        self.keys: dict[int, str] = {}

    def publish(self, key: str) -> int:
        made = event(self.log.head + 1, key=key, time=self.now)
        self.log.append(made)
        self.lanes.append(made)
        self.times[made.seq], self.keys[made.seq] = self.now, key
        return made.seq

    def come(self, since: Position | Start = Start.NOW) -> Client:
        client = Client(self.wire, since.seq if isinstance(since, Position) else 0)
        client.feed.start(["a"], Mode.LATEST, since, self.log)
        self.clients.append(client)
        self._read(client)
        return client

    def stall(self, client: Client) -> None:
        client.full = True
        if client.feed.lane is not None:
            self.lanes.leave(client.feed, self.log.head)

    def drain(self, client: Client) -> None:
        client.full = False
        self._read(client)

    def go(self, ms: int) -> None:
        """Let time pass; the lanes are cut when it is their time."""
        for _ in range(ms):
            self.now += 1
            if self.now % PACE == 0:
                self._cut()

    def _cut(self) -> None:
        for cut in self.lanes.cut_paced(PACE, self.log):
            for feed in cut.members:
                self._tell(feed.sink, cut.data)
                feed.position = cut.position
        for client in self.clients:
            self._read(client)

    def _read(self, client: Client) -> None:
        feed = client.feed
        while feed.lane is None and not client.full:
            before = feed.position
            parts = feed.advance(self.log, self.lanes, ENOUGH)
            self._tell(client, parts)
            if not parts and feed.position == before:
                return

    def _tell(self, client: Client, data: list[bytes]) -> None:
        parts = self.wire.read(data)
        assert not [part for part in parts if isinstance(part, Gap)]
        if parts:
            client.told.append(Told(self.now, [p.seq for p in parts if isinstance(p, Part)]))

    def newest(self) -> dict[str, int]:
        return {key: seq for seq, key in self.keys.items()}

    def shown(self, client: Client) -> dict[str, int]:
        return {self.keys[seq]: seq for seq in client.seqs}


def test_between_two_cuts_only_the_newest_of_a_key_counts() -> None:
    ground = Ground()
    client = ground.come()
    for key in "kklkm":
        ground.publish(key)
    ground.go(PACE)
    assert client.told == [Told(PACE, [3, 4, 5])]
    ground.go(10 * PACE)
    assert len(client.told) == 1


def test_who_comes_between_two_cuts_is_told_all_at_once_and_then_in_step_with_the_others() -> None:
    ground = Ground()
    first = ground.come()
    ground.publish("k")
    ground.go(30)
    late = ground.come()
    assert late.told == [Told(30, [1])]
    assert first.told == []
    ground.publish("l")
    ground.go(PACE - 30)
    assert first.told == [Told(PACE, [1, 2])]
    assert late.told == [Told(30, [1]), Told(PACE, [2])]
    assert late.feed.lane is first.feed.lane


def test_who_comes_when_nothing_has_changed_joins_the_others_at_once() -> None:
    ground = Ground()
    ground.publish("k")
    first = ground.come()
    late = ground.come()
    assert late.feed.lane is first.feed.lane


def test_one_who_was_stalled_is_told_what_changed_and_is_in_step_again() -> None:
    ground = Ground(retained=1)
    client, other = ground.come(), ground.come()
    ground.stall(client)
    for _ in range(100):
        ground.publish("k")
    ground.publish("l")
    ground.go(5 * PACE)
    ground.drain(client)
    assert client.seqs == [100, 101]
    assert client.feed.lane is other.feed.lane


actions = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(KEYS)),
        st.tuples(st.just("go"), st.integers(1, 150)),
        st.tuples(st.just("come"), st.none()),
        st.tuples(st.just("return"), st.integers(0, 20)),
        st.tuples(st.just("stall"), st.integers(0, 5)),
        st.tuples(st.just("drain"), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(actions=actions, retained=st.sampled_from([0, 1, 3]))
def test_whatever_happens_clients_are_told_at_the_cuts_what_is_no_older_than_their_pace(
    actions: list[tuple[str, object]], retained: int
) -> None:
    ground = Ground(retained=retained)
    off_beat: dict[Client, set[int]] = {}
    for action, how in actions:
        match action, how:
            case "publish", str(key):
                ground.publish(key)
            case "go", int(ms):
                ground.go(ms)
            case "come", _:
                off_beat[ground.come()] = {ground.now}
            case "return", int(seq):
                since = Position(EPOCH, min(seq, ground.log.head))
                off_beat[ground.come(since)] = {ground.now}
            case "stall" | "drain", int(index) if ground.clients:
                client = ground.clients[index % len(ground.clients)]
                off_beat[client].add(ground.now)
                if action == "stall":
                    ground.stall(client)
                elif client.full:
                    ground.drain(client)
    for client in ground.clients:
        for told in client.told:
            # At the beat, or where it came, stalled or drained.
            assert told.at % PACE == 0 or told.at in off_beat[client]
            assert len({ground.keys[seq] for seq in told.seqs}) == len(told.seqs)
            if len(off_beat[client]) == 1 and told.at not in off_beat[client]:
                assert all(told.at - ground.times[seq] <= PACE for seq in told.seqs)
        assert client.seqs == sorted(set(client.seqs))
        if client.full:
            ground.drain(client)
    ground.go(2 * PACE)
    newest = ground.newest()
    for client in ground.clients:
        # One who came back has had the rest before.
        assert newest == {k: s for k, s in newest.items() if s <= client.since} | ground.shown(
            client
        )
        assert client.feed.lane is ground.clients[0].feed.lane


def test_who_comes_does_not_take_from_the_others_that_a_channel_was_forgotten() -> None:
    log, lanes, wire = Log(EPOCH, channels_max=1), Lanes(), stream()
    feeds = []
    for begin in (1, 3):
        feed = Feed(wire, pace=PACE)
        feed.start(["a"], Mode.LATEST, Start.NOW, log)
        feed.advance(log, lanes, ENOUGH)
        feeds.append(feed)
        if begin == 1:
            log.append(event(1, "a"))
            log.append(event(2, "b"))  # and nothing is known of "a" any more
    (cut,) = lanes.cut_paced(PACE, log)
    assert cut.members == feeds[:1]
    (gap,) = wire.read(cut.data)
    assert isinstance(gap, Gap)
    assert gap.selectors == ("a",)
