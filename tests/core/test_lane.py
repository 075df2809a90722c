"""Lanes: who shares bytes, and what a cut writes to whom. See also test_lossless."""

from typing import Any

import pytest

from tests.core.samples import EPOCH, event
from tests.core.wires import Encoding, Part, TestWire, stream, subscriptions
from twinwire.core.event import Event, Position
from twinwire.core.feed import Feed, Gap, Mode, Start, Why
from twinwire.core.lane import Cut, Lanes
from twinwire.core.log import Log
from twinwire.errors import Closed, CloseReason

ENOUGH = 1 << 40


class Ground:
    """A log and its lanes."""

    def __init__(self, **options: Any) -> None:
        self.log = Log(EPOCH, **options)
        self.lanes = Lanes()

    def publish(self, *names: str, key: str | None = None) -> None:
        for name in names:
            made = event(self.log.head + 1, name, key=key)
            self.log.append(made)
            self.lanes.append(made)

    def live(self, wire: TestWire, *selectors: str, pace: int = 0) -> Feed:
        """A feed that has joined its lane."""
        feed = Feed(wire, pace=pace)
        feed.start(selectors, Mode.LATEST if pace else Mode.EVERY, Start.NOW, self.log)
        assert not feed.advance(self.log, self.lanes, ENOUGH)
        assert feed.lane is not None
        return feed

    def cut(self) -> list[Cut]:
        return list(self.lanes.cuts(self.log))

    def write(self, cuts: list[Cut]) -> None:
        for cut in cuts:
            for feed in cut.members:
                if cut.awaited_by(feed):
                    feed.position = cut.position


def test_feeds_that_want_the_same_on_one_wire_share_a_lane() -> None:
    ground, wire = Ground(), stream()
    one, two = ground.live(wire, "a", "*.b"), ground.live(wire, "*.b", "a")
    other = ground.live(wire, "a")
    assert one.lane is two.lane
    assert one.lane is not other.lane
    assert len(ground.lanes) == 2


def test_a_cut_gives_the_members_of_a_lane_the_same_object() -> None:
    ground, wire = Ground(), stream()
    feeds = [ground.live(wire, "a") for _ in range(3)]
    ground.publish("a", "b", "a")
    (cut,) = ground.cut()
    assert wire.read(cut.data) == [Part(1, ""), Part(3, "")]
    assert cut.members == feeds
    assert cut.position == 3


def test_an_event_is_encoded_once_for_all_lanes_of_an_encoding() -> None:
    ground, encoding = Ground(), Encoding(per_selector=False)
    for selectors in (["a"], ["a", "b"], ["*"], ["a", "*"], [">", "*"]):
        for wire in (TestWire(encoding, resumes=True), TestWire(encoding, resumes=True)):
            ground.live(wire, *selectors)
    ground.publish("a")
    assert len(ground.cut()) == 10
    assert len(encoding.encoded) == 1


def test_an_event_is_encoded_once_for_each_selector_where_each_gets_its_own() -> None:
    ground, wire = Ground(), subscriptions()
    for selectors in (["a"], ["a", "b"], ["*"], ["a", "*"]):
        ground.live(wire, *selectors)
    ground.publish("a")
    assert sorted(wire.encoding.encoded) == [b"(1:*)", b"(1:a)"]
    cuts = {cut.lane.selection: cut for cut in ground.cut()}
    assert [len(wire.read(cut.data)) for cut in cuts.values()] == [1, 1, 2, 1]


def test_nothing_is_encoded_for_nobody() -> None:
    ground, wire = Ground(), stream()
    feed = ground.live(wire, "a", "b.*")
    ground.publish("c", "b", "a.b")
    assert not ground.lanes.dirty
    ground.lanes.leave(feed, ground.log.head)
    ground.publish("a", "b.c")
    assert not ground.lanes.dirty
    assert wire.encoding.encoded == []


def test_an_event_that_several_selectors_match_is_written_once_to_a_stream() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a.b", "a.*", "*.b", ">")
    ground.publish("a.b", "a.b")
    (cut,) = ground.cut()
    assert wire.read(cut.data) == [Part(1, ""), Part(2, "")]


def test_a_cut_takes_everything_and_the_next_one_begins_empty() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a")
    ground.publish("a")
    ground.write(ground.cut())
    assert not ground.lanes.dirty
    assert ground.cut() == []
    ground.publish("a")
    (cut,) = ground.cut()
    assert wire.read(cut.data) == [Part(2, "")]


def test_a_lane_takes_what_comes_before_its_turn_and_the_rest_at_its_next() -> None:
    ground, wire = Ground(), stream()
    one, two = ground.live(wire, "a", "b"), ground.live(wire, "a", "c")
    ground.publish("a", "b", "c")
    cuts = ground.lanes.cuts(ground.log)
    first = next(cuts)
    assert (first.lane, wire.read(first.data)) == (one.lane, [Part(1, ""), Part(2, "")])
    ground.publish("a", "c")
    (second,) = cuts
    assert second.lane is two.lane
    assert wire.read(second.data) == [Part(1, ""), Part(3, ""), Part(4, ""), Part(5, "")]
    assert (first.position, second.position) == (3, 5)
    ground.write([first, second])
    assert [ground.lanes.dirty, one.lane is not None and one.lane.dirty] == [True, True]
    assert two.reached(ground.log.head) == 5
    (third,) = ground.cut()
    assert (third.lane, wire.read(third.data)) == (one.lane, [Part(4, "")])
    assert not ground.lanes.dirty


def test_who_was_cut_longest_ago_is_the_first_to_be_cut_again() -> None:
    ground, wire = Ground(), stream()
    feeds = [ground.live(wire, channel, "x") for channel in "abcd"]
    order = [feed.lane for feed in feeds]
    for channels in ("x", "dcba", "bdac"):
        ground.publish(*channels)
        lanes = []
        for cut in ground.lanes.cuts(ground.log):
            lanes.append(cut.lane)
            ground.publish("other", "x")
        assert lanes == order


def test_a_lane_that_begins_in_the_middle_of_a_tick_has_no_turn_in_it() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a")
    ground.live(wire, "a", "b")
    ground.publish("a")
    cuts = ground.lanes.cuts(ground.log)
    next(cuts)
    new = ground.live(wire, "b")
    ground.publish("b")
    assert new.lane not in [cut.lane for cut in cuts]
    assert wire.read(next(c.data for c in ground.cut() if c.lane is new.lane)) == [Part(2, "")]


def test_a_lane_whose_members_have_left_before_its_turn_is_not_joined() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a")
    late = ground.live(wire, "a", "b")
    ground.publish("a")
    cuts = ground.lanes.cuts(ground.log)
    next(cuts)
    ground.lanes.leave(late, ground.log.head)
    assert late.position == 0
    assert list(cuts) == []


def test_a_lane_without_members_is_gone_and_what_was_pending_with_it() -> None:
    ground, wire = Ground(), stream()
    feed = ground.live(wire, "a", "*")
    ground.publish("a")
    ground.lanes.leave(feed, ground.log.head)
    assert len(ground.lanes) == 0
    assert ground.cut() == []
    assert feed.position == 0


def test_who_leaves_a_quiet_lane_has_reached_the_head() -> None:
    ground, wire = Ground(), stream()
    feed = ground.live(wire, "a")
    ground.publish("b", "b")
    ground.lanes.leave(feed, ground.log.head)
    assert feed.position == 2


def test_who_leaves_between_a_cut_and_its_write_has_not_got_it() -> None:
    ground, wire = Ground(), stream()
    feed = ground.live(wire, "a")
    ground.publish("a")
    (cut,) = ground.cut()
    ground.lanes.leave(feed, ground.log.head)
    assert feed.position == 0
    assert not cut.awaited_by(feed)


def test_who_leaves_and_comes_back_between_a_cut_and_its_write_is_not_written_it_twice() -> None:
    ground, wire = Ground(), stream()
    feed, _ = ground.live(wire, "a"), ground.live(wire, "a")
    ground.publish("a")
    (cut,) = ground.cut()
    lane = feed.lane
    ground.lanes.leave(feed, ground.log.head)
    assert wire.read(feed.advance(ground.log, ground.lanes, ENOUGH)) == [Part(1, "")]
    assert feed.lane is lane is cut.lane
    assert not cut.awaited_by(feed)


def test_who_joins_while_events_are_pending_joins_at_the_last_cut() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a")
    ground.publish("a", "a")
    ground.write(ground.cut())
    ground.publish("a", "a")
    late = Feed(wire)
    late.start(["a"], Mode.EVERY, Position(EPOCH, 0), ground.log)
    assert wire.read(late.advance(ground.log, ground.lanes, ENOUGH)) == [Part(1, ""), Part(2, "")]
    assert (late.lane is not None, late.position) == (True, 2)
    (cut,) = ground.cut()
    assert cut.awaited_by(late)
    assert wire.read(cut.data) == [Part(3, ""), Part(4, "")]


def test_who_is_in_the_middle_of_a_batch_waits_for_its_cut() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a")
    ground.publish("a", "a")
    late = Feed(wire)
    late.start(["a"], Mode.EVERY, Position(EPOCH, 1), ground.log)
    assert not late.advance(ground.log, ground.lanes, ENOUGH)
    assert late.lane is None
    (cut,) = ground.cut()
    assert late not in cut.members
    assert wire.read(late.advance(ground.log, ground.lanes, ENOUGH)) == [Part(2, "")]
    assert late.lane is not None


def test_a_lane_that_begins_in_the_middle_of_a_batch_leaves_out_what_was_before() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a")
    ground.publish("a", "b", "a")
    new = ground.live(wire, "a", "b")
    assert new.reached(ground.log.head) == 3
    ground.publish("b", "a")
    cuts = {cut.lane: cut for cut in ground.cut()}
    assert new.lane is not None
    assert wire.read(cuts[new.lane].data) == [Part(4, ""), Part(5, "")]
    ground.publish("a")
    cuts = {cut.lane: cut for cut in ground.cut()}
    assert wire.read(cuts[new.lane].data) == [Part(6, "")]


def test_a_lane_that_begins_after_all_of_a_batch_has_nothing_to_write() -> None:
    ground, wire = Ground(), stream()
    old = ground.live(wire, "a")
    ground.publish("a")
    ground.live(wire, "a", "b")
    assert [cut.members for cut in ground.cut()] == [[old]]


def test_what_several_selectors_bring_is_in_the_order_of_the_log() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a", "b.*", "c")
    names = ["c", "a", "b.x", "a", "d", "b.y", "c", "a"]
    ground.publish(*names)
    (cut,) = ground.cut()
    expected = [seq for seq, name in enumerate(names, 1) if name != "d"]
    assert wire.read(cut.data) == [Part(seq, "") for seq in expected]


def test_lanes_that_have_only_one_selector_s_events_share_the_joining() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a", "b")
    ground.live(wire, "a", "c")
    ground.live(wire, "a", "d")
    ground.publish("a", "a", "d")
    cuts = {tuple(sorted(cut.lane.selection)): cut for cut in ground.cut()}
    assert cuts["a", "b"].data is cuts["a", "c"].data
    assert wire.read(cuts["a", "d"].data) == [Part(1, ""), Part(2, ""), Part(3, "")]


def test_lanes_with_an_event_in_between_do_not_share_and_those_without_do() -> None:
    ground, wire = Ground(), stream()
    for other in "bcde":
        ground.live(wire, "a", other)
    ground.publish("a", "a")
    cuts = ground.lanes.cuts(ground.log)
    one, two = next(cuts), next(cuts)
    ground.publish("a")
    three, four = cuts
    assert one.data is two.data
    assert three.data is four.data
    assert wire.read(two.data) == [Part(1, ""), Part(2, "")]
    assert wire.read(three.data) == [Part(1, ""), Part(2, ""), Part(3, "")]
    ground.publish("a")
    again = ground.cut()
    assert again[0].data is again[1].data
    assert again[2].data is again[3].data
    assert wire.read(again[0].data) == [Part(3, ""), Part(4, "")]
    assert wire.read(again[2].data) == [Part(4, "")]


def test_a_pattern_that_comes_and_goes_is_matched_while_it_is_there() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "c")
    for _ in range(2):
        ground.publish("a.b")
        feed = ground.live(wire, "a.*")
        ground.publish("a.b", "a.c")
        (cut,) = ground.cut()
        assert len(wire.read(cut.data)) == 2
        ground.lanes.leave(feed, ground.log.head)
    ground.publish("a.b")
    assert not ground.lanes.dirty


def test_the_live_feeds_of_a_channel_are_counted_once_each() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a", "*")
    ground.live(wire, "*")
    ground.live(subscriptions(), "a", "b")
    assert [ground.lanes.count(channel) for channel in ("a", "b", "c", "c.d")] == [3, 3, 2, 0]


class OnlySmall(Encoding):
    """Cannot carry events of the channel `large`."""

    def event(self, event: Event, selector: str) -> bytes:
        if event.channel == "large":
            raise Closed(CloseReason.INAPPROPRIATE_PROTOCOL)
        return super().event(event, selector)


@pytest.mark.parametrize("per_selector", [False, True])
def test_an_event_that_a_wire_cannot_carry_ends_only_the_streams_that_want_it(
    per_selector: bool,
) -> None:
    ground = Ground()
    wire = TestWire(OnlySmall(per_selector=per_selector), resumes=True)
    fine, able = ground.live(wire, "small"), ground.live(stream(), "large")
    ended = {ground.live(wire, "large"), ground.live(wire, "small", "*", "large")}
    ground.publish("large", "small")
    cuts = ground.cut()
    assert {feed for cut in cuts if cut.broken for feed in cut.members} == ended
    assert {feed for cut in cuts if not cut.broken for feed in cut.members} == {fine, able}
    assert {cut.broken for cut in cuts} == {None, CloseReason.INAPPROPRIATE_PROTOCOL}
    ground.publish("small")
    assert not any(cut.broken for cut in ground.cut())


def test_a_lane_that_begins_between_two_events_that_cannot_be_carried_ends_too() -> None:
    ground = Ground()
    wire = TestWire(OnlySmall(per_selector=True), resumes=True)
    ground.live(wire, "large")
    ground.publish("large")
    late = ground.live(wire, "large", "small")
    ground.publish("large")
    assert {feed for cut in ground.cut() if cut.broken for feed in cut.members} >= {late}


def test_a_lane_that_begins_after_an_event_that_cannot_be_carried_goes_on() -> None:
    ground = Ground()
    wire = TestWire(OnlySmall(per_selector=True), resumes=True)
    ground.live(wire, "large")
    ground.publish("large")
    late = ground.live(wire, "large", "small")
    assert late not in {feed for cut in ground.cut() for feed in cut.members}


def test_an_event_that_cannot_be_carried_ends_each_lane_at_its_own_turn() -> None:
    ground = Ground()
    wire = TestWire(OnlySmall(per_selector=True), resumes=True)
    ground.live(wire, "large", "small")
    ground.live(wire, "small", "large", "*")
    ground.publish("small")
    cuts = ground.lanes.cuts(ground.log)
    assert next(cuts).broken is None
    ground.publish("large")
    assert [cut.broken for cut in cuts] == [CloseReason.INAPPROPRIATE_PROTOCOL]
    assert [cut.broken for cut in ground.cut()] == [CloseReason.INAPPROPRIATE_PROTOCOL]
    ground.publish("small")
    assert [cut.broken for cut in ground.cut()] == [None, None]


# Paced lanes


def test_a_paced_lane_gets_the_newest_of_each_key_and_nothing_else() -> None:
    ground, wire = Ground(), stream()
    feed, other = ground.live(wire, "a", pace=50), ground.live(wire, "a", pace=90)
    ground.publish("a", "a", key="k")
    ground.publish("a", key="l")
    assert not ground.lanes.dirty
    assert sorted(ground.lanes.paces) == [50, 90]
    (cut,) = ground.lanes.cut_paced(50, ground.log)
    assert wire.read(cut.data) == [Part(2, ""), Part(3, "")]
    assert cut.members == [feed]
    assert not cut.awaited_by(other)
    ground.write([cut])
    assert ground.lanes.cut_paced(50, ground.log) == []


def test_a_paced_lane_is_told_what_was_forgotten_between_its_cuts() -> None:
    ground, wire = Ground(keys_max=1), stream()
    feed = ground.live(wire, "a", pace=50)
    ground.publish("a", key="k")
    ground.publish("a", key="l")
    (cut,) = ground.lanes.cut_paced(50, ground.log)
    gap = Gap(Position(EPOCH, 0), Position(EPOCH, 1), Why.EVICTED, ("a",))
    assert wire.read(cut.data) == [gap, Part(2, "")]
    assert cut.broken is None
    ground.write([cut])
    assert feed.position == 2
    assert ground.lanes.cut_paced(50, ground.log) == []


def test_a_paced_stream_that_a_gap_ends_has_to_come_back() -> None:
    ground, wire = Ground(keys_max=1), subscriptions()
    ground.live(wire, "a", pace=50)
    ground.publish("a", key="k")
    ground.publish("a", key="l")
    (cut,) = ground.lanes.cut_paced(50, ground.log)
    assert cut.broken is CloseReason.INSUFFICIENT


def test_who_is_between_two_cuts_of_a_paced_lane_waits_for_the_next_if_anything_changed() -> None:
    ground, wire = Ground(), stream()
    ground.live(wire, "a", pace=50)
    for names, joins in (["b"], True), (["a"], False):
        ground.publish(*names)
        late = Feed(wire, pace=50)
        late.start(["a"], Mode.LATEST, ground.log.position, ground.log)
        assert not late.advance(ground.log, ground.lanes, ENOUGH)
        assert (late.lane is not None) == joins


def test_a_paced_lane_without_members_is_gone() -> None:
    ground, wire = Ground(), stream()
    feed = ground.live(wire, "a", pace=50)
    ground.lanes.leave(feed, ground.log.head)
    assert list(ground.lanes.paces) == []
    assert ground.lanes.cut_paced(50, ground.log) == []


def test_a_paced_lane_is_told_of_a_channel_that_was_forgotten_whole() -> None:
    ground, wire = Ground(channels_max=2), stream()
    ground.live(wire, "a", pace=50)
    ground.publish("a", "b", "c")
    (cut,) = ground.lanes.cut_paced(50, ground.log)
    gap = Gap(Position(EPOCH, 0), Position(EPOCH, 1), Why.EVICTED, ("a",))
    assert wire.read(cut.data) == [gap]


def test_who_comes_to_a_paced_lane_does_not_hide_from_it_what_was_forgotten() -> None:
    ground, wire = Ground(channels_max=2), stream()
    ground.live(wire, "a", pace=50)
    ground.publish("a", "b", "c")
    late = Feed(wire, pace=50)
    late.start(["a"], Mode.LATEST, ground.log.position, ground.log)
    assert not late.advance(ground.log, ground.lanes, ENOUGH)
    (cut,) = ground.lanes.cut_paced(50, ground.log)
    gap = Gap(Position(EPOCH, 0), Position(EPOCH, 1), Why.EVICTED, ("a",))
    assert wire.read(cut.data) == [gap]
    assert late not in cut.members
