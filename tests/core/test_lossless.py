"""Whatever happens to a subscriber, it is told everything or told what it was not.

The truth is a list of all events. A small driver does what the fan-out does, but in any order: it
publishes, cuts one lane after the other, writes the cuts to their members one by one, and lets
feeds that are behind read on, while clients come, go, stall, resume and change what they want. The
clients keep books over what they read, as real ones could (see `tests.core.books`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.core.books import Answer, Beat, Begun, Book, Client, Ended, Truth
from tests.core.samples import CHANNELS, EPOCH, KEYS, PATTERNS, channels, selectors
from tests.core.wires import Encoding, Part, TestWire
from twinwire.core.batch import ordered
from twinwire.core.event import Pattern, Position, Selection
from twinwire.core.feed import Feed, Gap, Mode, Start, Why
from twinwire.core.lane import Cut, Lane, Lanes
from twinwire.core.log import OVERHEAD, Log, Retention
from twinwire.core.recovery import subscribe
from twinwire.core.replay import Replay
from twinwire.errors import Closed, CloseReason

ENOUGH = 1 << 40
EVENT = 5 + OVERHEAD
"""Bytes of one event, to a reading of the log."""

publications = st.integers(0, 24**5)
"""Up to five events as the digits of a number: drawing is what takes the time here."""

Action = Callable[..., None]

few = st.integers(0, 5)
"""Which one of a few things."""
rooms = st.sampled_from([1000, 1000, 1000, 3, 1])
places = st.sampled_from([*Start, "old", "old", "foreign", "future"])
backs = st.integers(0, 30)


def step(**drawn: st.SearchStrategy[Any]) -> Callable[[Action], Action]:
    """A rule before which events are published and a tick may begin."""
    strategies: dict[str, Any] = {
        "published": publications,
        "tick": st.sampled_from([None, None, 0, 1, 2, ENOUGH]),
        **drawn,
    }

    def decorate(action: Action) -> Action:
        @wraps(action)
        def both(self: "World", published: int, tick: int | None, **drawn: Any) -> None:
            self.publish(published)
            if tick is not None and not (self.round or self.writes):
                self.tick(paced=published % 2 == 0, writes=tick)
            action(self, **drawn)

        stepped: Action = cast(Any, rule)(**strategies)(both)
        return stepped

    return decorate


class World(RuleBasedStateMachine):
    """The fan-out and its clients."""

    clients: list[Client]

    @initialize(
        retention=st.sampled_from([(), (), (3,), (10,), (30,), (0, 50), (10, 20)]),
        rules=st.dictionaries(
            st.sampled_from(CHANNELS + PATTERNS), st.sampled_from([1, 2, 5]), max_size=2
        ),
        bounds=st.sampled_from([(100, 100), (100, 100), (100, 1), (2, 100), (3, 2)]),
        after=st.sampled_from([0, 7]),
        replay=st.sampled_from([(1, 0), (200, 20), (200, 1000), (1000, 1000)]),
        names=st.lists(channels, min_size=1, max_size=3, unique=True),
        choice=st.lists(selectors, min_size=1, max_size=4, unique=True),
        population=st.sampled_from(["", "ee", "ll", "pp", "ss", "elps"]),
    )
    def begin(
        self,
        retention: tuple[int, ...],
        rules: dict[str, int],
        bounds: tuple[int, int],
        after: int,
        replay: tuple[int, int],
        names: list[str],
        choice: list[str],
        population: str,
    ) -> None:
        # Few of each, so that clients meet in lanes and events match.
        self.names, self.choice = names, choice
        self.forgets = bounds != (100, 100) or after > 0
        self.log = Log(
            EPOCH,
            after=after,
            retention=Retention(*retention),
            rules=[(Pattern(text), Retention(events)) for text, events in rules.items()],
            channels_max=bounds[0],
            keys_max=bounds[1],
        )
        self.lanes = Lanes()
        self.replay = Replay(self.log, limit=replay[0], kept=replay[1])
        self.truth = Truth()
        self.round: Iterator[list[Cut]] | None = None
        self.was_cut: set[Lane] = set()
        self.writes: deque[tuple[Cut, Feed]] = deque()
        self.clients = []
        self.of: dict[Feed, Client] = {}
        self.told: set[tuple[Feed, Position, tuple[str, ...]]] = set()
        once, each = Encoding(per_selector=False), Encoding(per_selector=True)
        self.encodings = [once, each]
        self.streams = [TestWire(encoding, resumes=True) for encoding in (once, once, each)]
        self.subscriptions = TestWire(each, resumes=False)
        for kind in population:
            wire = self.subscriptions if kind == "s" else self.streams[0]
            client = Client(wire, self.truth, 1000, pace=50 if kind == "p" else 0)
            mode = Mode.EVERY if kind in "es" else Mode.LATEST
            self.join(client, self.choice[:2], mode, Start.NOW, settled=True)

    def join(
        self,
        client: Client,
        wanted: Iterable[str],
        mode: Mode,
        since: Position | Start,
        settled: bool,
    ) -> None:
        """A client comes, with its channels."""
        self.clients.append(client)
        if client.wire.resumes:
            client.books[""] = Book(self.truth, frozenset(wanted), mode)
            self.connect(client, since)
        else:
            self.welcome(client)
            for selector in wanted:
                self.ask(client, selector, mode, since)
        if settled:
            self.settle(client)

    # What is published

    def publish(self, events: int) -> None:
        while events:
            events, digit = divmod(events, 24)
            name, key = self.names[digit % len(self.names)], KEYS[digit // 6]
            # Now and then a position is nobody's.
            made = self.truth.add(self.log.head + 1 + (digit == 23), name, key)
            self.log.append(made)
            for encoding in self.encodings:
                encoding.encoded.clear()
            self.lanes.append(made)
            for encoding in self.encodings:
                assert len(encoding.encoded) == len(set(encoding.encoded))

    # The fan-out

    def tick(self, paced: bool, writes: int) -> None:
        self.round = self.cuts(paced)
        self.was_cut.clear()
        self.write(writes)

    def cuts(self, paced: bool) -> Iterator[list[Cut]]:
        """Of one tick. Each is taken when the next one is asked for, paced ones all at once."""
        for cut in self.lanes.cuts(self.log):
            assert cut.position == self.log.head
            assert not cut.lane.dirty
            yield [cut]
        for pace in list(self.lanes.paces) if paced else ():
            yield self.lanes.cut_paced(pace, self.log)

    @step(count=st.integers(1, 3))
    def write_some(self, count: int) -> None:
        self.write(count)

    @step(count=st.integers(1, 3))
    def cut_some(self, count: int) -> None:
        """Lanes are cut while what others were cut with has still to be written."""
        while count and self.cut():
            count -= 1

    def cut(self) -> bool:
        """Cut the next lane of this tick; False if all have been."""
        if self.round is None:
            return False
        cuts = next(self.round, None)
        if cuts is None:
            self.round = None
            return False
        for cut in cuts:
            assert cut.lane not in self.was_cut
            self.was_cut.add(cut.lane)
            self.writes.extend((cut, feed) for feed in cut.members)
        return True

    def write(self, count: int) -> None:
        while count and (self.writes or self.cut()):
            count -= 1
            if self.writes:
                self.write_one(*self.writes.popleft())

    def write_one(self, cut: Cut, feed: Feed) -> None:
        if cut.awaited_by(feed):
            self.deliver(self.of[feed], cut.data)
            feed.position = cut.position
            if self.of[feed].full:
                self.lanes.leave(feed, self.log.head)

    def deliver(self, client: Client, joined: list[Any]) -> None:
        assert client.feed is not None
        for item in client.wire.read(joined):
            if isinstance(item, Part) and item.selector:
                assert item.selector in client.feed.selection
            client.inbox.append(item)

    def behind(self) -> list[Client]:
        return [
            client
            for client in self.clients
            if (feed := client.feed) and feed.lane is None and feed.selection and not client.full
        ]

    @step(which=few, events=st.sampled_from([0, 1, 2, 5, 100]), share=st.booleans())
    def advance(self, which: int, events: int, share: bool) -> None:
        if behind := self.behind():
            client = behind[which % len(behind)]
            self.read_on(client, events * EVENT, self.replay if share else None)

    def read_on(self, client: Client, limit: int, replay: Replay | None = None) -> None:
        feed = client.feed
        assert feed is not None
        position, latest = feed.position, feed.latest
        try:
            parts = feed.advance(self.log, self.lanes, limit, replay)
        except Closed as closed:
            if not client.strict or closed.reason is not CloseReason.SLOW:
                raise
            self.close(client)
            return
        assert feed.position >= position
        if not parts and feed.selection and feed.lane is None:
            # It will not be called again before there was a cut.
            assert feed.position >= self.lanes.goal(feed, self.log)
        for part in parts:
            if isinstance(part, Gap):
                self.check_gap(client, latest, part)
        if parts:
            self.deliver(client, client.wire.join(parts))
        if feed.lane is not None and client.full:
            self.lanes.leave(feed, self.log.head)

    def check_gap(self, client: Client, latest: Selection, gap: Gap) -> None:
        """A gap is declared once, and only where something is gone."""
        assert client.feed is not None
        assert gap.selectors
        assert (client.feed, gap.end, gap.selectors) not in self.told
        self.told.add((client.feed, gap.end, gap.selectors))
        if gap.why is not Why.RESTARTED:
            assert not client.strict or gap.why is Why.EVICTED
            assert gap.begin < gap.end
        if gap.why is not Why.RESTARTED and not self.forgets:
            stretch = gap.begin.seq, gap.end.seq
            for selector in gap.selectors:
                assert selector not in latest
                kept = self.log.read(Selection([selector]), *stretch, ENOUGH).events
                assert len(kept) < len(self.truth.matching([selector], *stretch))

    def settle(self, client: Client) -> None:
        """Let it read on until it is live, or can only wait."""
        client.read(ENOUGH)
        while client in self.behind():
            self.read_on(client, ENOUGH)
            if not client.inbox:
                break
            client.read(ENOUGH)

    def place(self, place: Start | str, back: int) -> Position | Start:
        head = self.log.head
        if place == "old":
            return Position(EPOCH, max(0, head - back))
        if place == "foreign":
            return Position(EPOCH - 1 - back, back)
        if place == "future":
            return Position(EPOCH, head + 1 + back)
        assert isinstance(place, Start)
        return place

    # Streams: one position for all channels, which they begin with and go on from

    @precondition(lambda self: len(self.clients) < 5)
    @step(
        wire=st.integers(0, 2),
        chosen=st.frozensets(few, min_size=1, max_size=3),
        mode=st.sampled_from(Mode),
        place=places,
        back=backs,
        room=rooms,
        pace=st.sampled_from([0, 50]),
        strict=st.sampled_from([False, False, True]),
        settled=st.booleans(),
    )
    def attach(
        self,
        wire: int,
        chosen: frozenset[int],
        mode: Mode,
        place: Start | str,
        back: int,
        room: int,
        pace: int,
        strict: bool,
        settled: bool,
    ) -> None:
        pace = pace if mode is Mode.LATEST else 0
        client = Client(self.streams[wire], self.truth, room, pace, strict)
        wanted = {self.choice[index % len(self.choice)] for index in chosen}
        self.join(client, wanted, mode, self.place(place, back), settled)

    @precondition(lambda self: self.clients and len(self.clients) < 5)
    @step(which=few, place=places, back=backs, settled=st.booleans())
    def attach_another(self, which: int, place: Start | str, back: int, settled: bool) -> None:
        """A client that wants what another one has."""
        other = self.clients[which % len(self.clients)]
        client = Client(other.wire, self.truth, 1000, other.pace)
        wanted = {selector for book in other.books.values() for selector in book.selectors}
        modes = [book.mode for book in other.books.values()] or [Mode.EVERY]
        self.join(client, wanted, modes[0], self.place(place, back), settled)

    def connect(self, client: Client, since: Position | Start) -> None:
        book = client.books[""]
        strict: Callable[[str], bool] | None = (lambda _: True) if client.strict else None
        feed = client.feed = Feed(client.wire, pace=client.pace, strict=strict)
        self.of[feed] = client
        feed.start(book.selectors, book.mode, since, self.log)
        book.begin(feed.position)
        if isinstance(since, Start):
            # What was gone when it began is nothing it has asked for.
            lost = self.log.keys_lost if book.mode is Mode.LATEST else self.log.evicted
            book.gaps = [(0, lost(selector), (selector,)) for selector in book.selectors]
        client.inbox.append(Begun(feed.begins(self.log)))

    def close(self, client: Client) -> None:
        if client.feed is not None:
            if client.feed.lane is not None:
                self.lanes.leave(client.feed, self.log.head)
            client.feed = None
            client.inbox.clear()

    @precondition(lambda self: self.clients)
    @step(which=few, comes_back=st.booleans(), settled=st.booleans())
    def disconnect(self, which: int, comes_back: bool, settled: bool) -> None:
        client = self.clients[which % len(self.clients)]
        self.close(client)
        if not comes_back:
            self.clients.remove(client)
        elif client.wire.resumes:
            self.connect(client, client.books[""].position or Start.NOW)
        else:
            self.welcome(client)
            for selector, book in client.books.items():
                if book.open:
                    self.ask(client, selector, book.mode, book.position)
        if client.feed is not None and settled:
            self.settle(client)

    @precondition(lambda self: self.clients)
    @step(which=few)
    def heartbeat(self, which: int) -> None:
        client = self.clients[which % len(self.clients)]
        if client.feed is not None and client.feed.foreign is None and client.wire.resumes:
            client.inbox.append(Beat(Position(EPOCH, client.feed.reached(self.log.head))))

    # Subscriptions: a position for each, and they come and go

    def subscribers(self) -> list[Client]:
        return [c for c in self.clients if c.feed is not None and not c.wire.resumes]

    def welcome(self, client: Client) -> None:
        client.feed = Feed(client.wire)
        self.of[client.feed] = client

    @precondition(lambda self: len(self.clients) < 5)
    @step(room=rooms, selector=few, mode=st.sampled_from(Mode), back=backs)
    def attach_subscriber(self, room: int, selector: int, mode: Mode, back: int) -> None:
        client = Client(self.subscriptions, self.truth, room)
        wanted = [self.choice[selector % len(self.choice)]]
        self.join(client, wanted, mode, self.place("old", back), settled=True)

    @precondition(lambda self: self.subscribers())
    @step(
        which=few,
        chosen=st.lists(st.tuples(few, places, backs), min_size=1, max_size=3),
        mode=st.sampled_from(Mode),
        settled=st.booleans(),
    )
    def subscribe(
        self, which: int, chosen: list[tuple[int, Start | str, int]], mode: Mode, settled: bool
    ) -> None:
        client = self.subscribers()[which % len(self.subscribers())]
        for index, place, back in chosen:
            selector = self.choice[index % len(self.choice)]
            book = client.books.get(selector)
            since = self.place(place, back)
            if place is Start.NOW and book is not None and book.mode is mode:
                since = book.position or since
            self.ask(client, selector, mode, since)
        if settled:
            self.settle(client)

    def ask(
        self, client: Client, selector: str, mode: Mode, since: Position | Start | None
    ) -> None:
        feed = client.feed
        assert feed is not None
        if selector in feed.selection:
            return
        if feed.lane is not None:
            self.lanes.leave(feed, self.log.head)
        known = since if isinstance(since, Position) else None
        recovery = subscribe(feed, selector, mode, known, self.log, 3 * EVENT)
        assert recovery.start <= self.log.position
        client.inbox.append(Answer(selector, mode, known, recovery))

    @precondition(lambda self: self.subscribers())
    @step(which=few, chosen=st.lists(few, min_size=1, max_size=3))
    def unsubscribe(self, which: int, chosen: list[int]) -> None:
        client = self.subscribers()[which % len(self.subscribers())]
        feed = client.feed
        assert feed is not None
        gone = {self.choice[index % len(self.choice)] for index in chosen}
        gone.intersection_update(feed.selection)
        if feed.lane is not None:
            self.lanes.leave(feed, self.log.head)
        feed.drop(gone)
        client.inbox.extend(Ended(selector) for selector in gone)

    @precondition(lambda self: self.clients)
    @step(which=few, count=st.sampled_from([1, 2, ENOUGH]))
    def read(self, which: int, count: int) -> None:
        self.clients[which % len(self.clients)].read(count)

    # What holds at any time, and in the end

    @invariant()
    def lanes_hold_exactly_what_their_members_need(self) -> None:
        lanes: dict[tuple[Any, Selection, int], Lane] = {}
        for client in getattr(self, "clients", ()):
            feed = client.feed
            if feed is None or feed.lane is None:
                continue
            lane = feed.lane
            assert feed in lane.members
            assert lanes.setdefault((feed.wire, feed.selection, feed.pace), lane) is lane
            awaits = any(cut.awaited_by(feed) for cut, member in self.writes if member is feed)
            since = lane.position if awaits else feed.position
            if lane.pace:
                # What has changed is read at the cut; there may be nothing before that.
                assert not lane.dirty
                missed = self.log.read_latest(lane.selection, since, lane.position, ENOUGH)
                assert not missed.events
                continue
            assert awaits == (feed.position < lane.position)
            wanted = [
                (event.seq, selector)
                for event in self.truth.matching(lane.selection, since, self.log.head)
                for selector in sorted(lane.selection.matching(event.channel))
            ]
            if not feed.wire.encoding.per_selector:
                wanted = [(seq, "") for seq in dict.fromkeys(seq for seq, _ in wanted)]
            assert (
                sorted(feed.wire.read(ordered(lane.pending, lane.begin, once=lane.once))) == wanted
            )
        assert not hasattr(self, "lanes") or len(self.lanes) == len(lanes)

    def teardown(self) -> None:
        """Everybody comes to be live without another event, and has been told everything."""
        if not hasattr(self, "clients"):
            return
        # A feed stops where each selector that is ahead of the others is.
        for _ in range(3 + len(self.choice)):
            for client in self.clients:
                self.settle(client)
            if not (self.round or self.writes):
                self.tick(paced=True, writes=0)
            while self.round or self.writes:
                self.write(1)
                for client in self.clients:
                    client.read(ENOUGH)
        for client in self.clients:
            feed = client.feed
            assert not client.inbox
            if feed is None:
                continue
            assert (feed.lane is not None) == (len(feed.selection) > 0)
            if feed.lane is not None and not feed.pace:
                assert feed.reached(self.log.head) == self.log.head
            for selector, book in client.books.items():
                if not selector or selector in feed.selection:
                    book.account(self.log.head)
            self.close(client)
        assert not any(batch.parts for batch in self.lanes._batches.values())
        assert len(self.lanes) == 0
        assert self.lanes.memory == 0
        assert not self.lanes._groups
        assert not self.lanes._patterns


World.TestCase.settings = settings(max_examples=2 * settings().max_examples)
TestWorld = World.TestCase
