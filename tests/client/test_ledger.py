"""The ledger: what adds up, and what does not."""

import pytest

from twinwire.client.ledger import Entry, Ledger, Verdict
from twinwire.core.event import Event, Position
from twinwire.core.feed import Gap, Mode, Why

EPOCH = 1_763_800_000_000


def at(seq: int, epoch: int = EPOCH) -> Position:
    return Position(epoch, seq)


def entry(seq: int, channel: str = "a", key: str | None = None, data: bytes = b"1") -> Entry:
    return Entry(at(seq), channel, key, data)


def event(seq: int, channel: str = "a", key: str | None = None, data: bytes = b"1") -> Event:
    return Event(channel, data, EPOCH, seq, 0, key=key)


def gap(begin: int, end: int, *selectors: str) -> Gap:
    return Gap(at(begin), at(end), Why.EVICTED, selectors or ("a",))


LOG = [entry(seq) for seq in range(1, 7)]


def checked(*items: Event | Gap, log: list[Entry] = LOG, mode: Mode = Mode.EVERY) -> Verdict:
    ledger = Ledger(["a"], mode, at(0))
    for item in items:
        ledger.add(item)
    ledger.reached(at(6))
    return ledger.check(log)


def test_everything_received_adds_up() -> None:
    verdict = checked(*map(event, range(1, 7)))
    assert verdict.adds_up
    assert (verdict.published, verdict.received) == (6, 6)
    assert str(verdict) == "adds up: 6 events published, 6 received"


def test_what_lies_in_a_gap_adds_up() -> None:
    verdict = checked(event(1), gap(1, 4), event(5), event(6))
    assert verdict.adds_up
    assert verdict.in_gaps == 3


def test_gaps_that_overlap_cover_what_they_cover_together() -> None:
    assert checked(gap(0, 4), gap(1, 2), gap(4, 6)).adds_up
    assert checked(event(1), gap(3, 6), gap(1, 3)).adds_up


def test_a_gap_is_no_reason_not_to_get_what_is_left_of_its_stretch() -> None:
    verdict = checked(gap(0, 4), event(3), event(4), event(5), event(6))
    assert verdict.adds_up
    assert (verdict.received, verdict.in_gaps) == (4, 2)


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        ([event(1), event(2), event(4), event(5), event(6)], "-3 on a is missing"),
        ([event(1), gap(1, 4), event(6)], "-5 on a is missing"),
        ([gap(1, 6)], "-1 on a is missing"),
        ([gap(0, 3), gap(4, 6)], "-4 on a is missing"),
        ([event(1), event(1), gap(1, 6)], "-1 on a was received twice"),
        ([event(2), event(1), gap(2, 6)], "-1 on a was received after"),
        ([gap(0, 6), event(9, "b")], "-9 is on b, which was not asked for"),
        ([gap(0, 6), event(7)], "-7 on a was received, and never published"),
        ([gap(0, 6), event(2, data=b"2")], "-2 on a was received with other data"),
        ([gap(0, 6), event(2, key="k")], "-2 has the key None, received as k"),
    ],
)
def test_what_does_not_add_up_is_named(items: list[Event | Gap], fault: str) -> None:
    verdict = checked(*items)
    assert not verdict.adds_up
    assert verdict.fault_count == 1
    assert fault in verdict.faults[0]
    assert fault in str(verdict)


def test_a_gap_of_another_subscription_excuses_nothing() -> None:
    ledger = Ledger(["a", "b"], Mode.EVERY, at(0))
    ledger.add(gap(0, 6, "b"))
    ledger.reached(at(6))
    assert ledger.check([entry(1, "b"), entry(2)]).faults == (f"{at(2)} on a is missing",)


def test_a_gap_over_a_restart_covers_the_end_of_the_old_log() -> None:
    ledger = Ledger(["a"], Mode.EVERY, at(0))
    ledger.add(event(1))
    newer = EPOCH + 1000
    ledger.add(Gap(at(1), at(0, newer), Why.RESTARTED, ("a",)))
    ledger.add(Event("a", b"1", newer, 1, 0))
    verdict = ledger.check([*LOG, Entry(at(1, newer), "a")])
    assert verdict.adds_up
    assert (verdict.received, verdict.in_gaps) == (2, 5)


def test_latest_may_skip_what_a_newer_received_event_of_the_key_supersedes() -> None:
    log = [entry(1, key="k"), entry(2, key="l"), entry(3, key="k"), entry(4, "b", "l")]
    verdict = checked(event(2, key="l"), event(3, key="k"), log=log, mode=Mode.LATEST)
    assert verdict.adds_up
    assert (verdict.received, verdict.superseded) == (2, 1)


def test_latest_must_have_the_newest_of_every_key() -> None:
    log = [entry(1, key="k"), entry(2, key="l"), entry(3, key="k")]
    verdict = checked(event(1, key="k"), event(2, key="l"), log=log, mode=Mode.LATEST)
    assert verdict.faults == (f"{at(3)} on a (key k) is missing",)


def test_latest_is_excused_by_a_newer_event_beyond_where_it_has_got_to() -> None:
    log = [entry(1, key="k"), entry(2, key="l"), entry(9, key="k")]
    assert checked(event(2, key="l"), log=log, mode=Mode.LATEST).superseded == 1


def test_latest_is_excused_by_a_newer_event_that_lies_in_a_gap() -> None:
    log = [entry(1, key="k"), entry(2, key="l"), entry(3, key="k")]
    verdict = checked(event(2, key="l"), gap(2, 3), log=log, mode=Mode.LATEST)
    assert verdict.adds_up
    assert (verdict.superseded, verdict.in_gaps) == (1, 1)


def test_the_log_knows_the_key_where_the_wire_does_not_tell() -> None:
    log = [entry(1, key="k"), entry(2, key="l"), entry(3, key="k")]
    assert checked(event(2), event(3), log=log, mode=Mode.LATEST).adds_up


def test_an_account_without_a_begin_begins_with_its_first_event() -> None:
    ledger = Ledger(["a"], Mode.EVERY)
    assert ledger.check(LOG).published == 0
    ledger.add(event(3))
    ledger.add(event(4))
    verdict = ledger.check(LOG)
    assert verdict.adds_up
    assert verdict.published == 2


def test_what_the_log_does_not_hold_any_more_is_unknown_and_not_wrong() -> None:
    ledger = Ledger(["a"], Mode.EVERY, at(0))
    for seq in range(1, 5):
        ledger.add(event(seq))
    verdict = ledger.check(LOG[2:4], {"a": at(2)})
    assert verdict.adds_up
    assert verdict.unknown == 2
    assert "2 received that the log does not hold any more" in str(verdict)
    assert not ledger.check(LOG[3:4], {"a": at(2)}).adds_up


def test_an_incomplete_record_does_not_prove_that_something_was_never_published() -> None:
    ledger = Ledger(["a"], Mode.EVERY, at(0))
    ledger.add(event(1))
    assert ledger.check([], complete=False).adds_up
    assert not ledger.check([]).adds_up


def test_over_several_subscriptions_only_the_order_of_each_channel_counts() -> None:
    for one_order, faults in ((True, 1), (False, 0)):
        ledger = Ledger(["a", "b"], Mode.EVERY, at(0), one_order=one_order)
        for item in (event(2, "b"), event(1), event(3)):
            ledger.add(item)
        assert ledger.check([entry(1), entry(2, "b"), entry(3)]).fault_count == faults
    ledger = Ledger(["a"], Mode.EVERY, at(0), one_order=False)
    ledger.add(event(2))
    ledger.add(event(1))
    assert ledger.check(LOG[:2]).fault_count == 1


def test_checking_twice_says_the_same() -> None:
    ledger = Ledger(["a"], Mode.EVERY, at(0))
    ledger.add(event(3))
    assert ledger.check(LOG) == ledger.check(LOG)


def test_many_faults_are_counted_and_a_few_are_told() -> None:
    ledger = Ledger(["a"], Mode.EVERY, at(0))
    ledger.reached(at(1000))
    verdict = ledger.check([entry(seq) for seq in range(1, 1001)])
    assert verdict.fault_count == 1000
    assert len(str(verdict).splitlines()) == 22
