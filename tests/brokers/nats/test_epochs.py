"""What a node makes of the stream that it finds: each case of the rules, and all histories."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.brokers.nats.epochs import (
    Found,
    Known,
    Renewal,
    Stored,
    Verdict,
    holds,
    judge,
    read,
    renew,
    write,
)

FOUND = Found(epoch=1000, born=900, first=1, last=50)
KNOWN = Known(1000, 40, time=7)


@pytest.mark.parametrize(
    ("found", "known", "there", "verdict"),
    [
        (FOUND, None, None, Verdict.NEWER),
        (FOUND, KNOWN, Stored(7, ""), Verdict.SAME),
        (FOUND, KNOWN, Stored(7, "any"), Verdict.SAME),
        (FOUND, Known(1000, 40, id="x"), Stored(8, "x"), Verdict.SAME),
        (FOUND, Known(1000, 40), Stored(8, "x"), Verdict.SAME),
        # Its number is another's now.
        (FOUND, KNOWN, Stored(8, ""), Verdict.LOST),
        (FOUND, Known(1000, 40, id="x"), Stored(7, "y"), Verdict.LOST),
        # It is not there, though what is before and after it is.
        (FOUND, KNOWN, None, Verdict.LOST),
        # The stream ends before it.
        (FOUND._replace(last=39), KNOWN, None, Verdict.LOST),
        (FOUND._replace(first=1, last=0), KNOWN, None, Verdict.LOST),
        # Trimmed up to it, and beyond it.
        (FOUND._replace(first=41), KNOWN, None, Verdict.SAME),
        (FOUND._replace(first=42), KNOWN, None, Verdict.TRIMMED),
        (FOUND._replace(first=51), KNOWN, None, Verdict.TRIMMED),
        # Others have renewed it; an older state came back.
        (FOUND._replace(epoch=1001), KNOWN, None, Verdict.NEWER),
        (FOUND._replace(epoch=1001, last=3), KNOWN, None, Verdict.NEWER),
        (FOUND._replace(epoch=999), KNOWN, Stored(7, ""), Verdict.LOST),
        # Made again with its old configuration.
        (FOUND._replace(born=1001), None, None, Verdict.LOST),
        (FOUND._replace(born=1001), KNOWN, Stored(7, ""), Verdict.LOST),
        # Nothing was known of a log that had nothing.
        (FOUND, Known(1000, 0), None, Verdict.SAME),
    ],
)
def test_what_is_made_of_the_stream(
    found: Found, known: Known | None, there: Stored | None, verdict: Verdict
) -> None:
    assert judge(found, known, there) is verdict


def test_a_new_epoch_is_later_than_all_that_is_known() -> None:
    for found, known, now in [
        (FOUND, KNOWN, 5000),
        (FOUND, KNOWN, 1),
        (FOUND._replace(born=2000), None, 1),
        (FOUND, Known(3000, 1), 1),
    ]:
        renewals = renew(found, known, 40, now)
        latest = renewals[-1].epoch
        assert latest > found.epoch
        assert latest > found.born
        assert latest > (known.epoch if known else 0)
        assert latest >= now
        again = found._replace(epoch=latest, renewals=renewals)
        assert judge(again, known, None) is Verdict.NEWER


def test_a_new_epoch_begins_where_the_stream_is_known_to_be_as_it_was() -> None:
    assert renew(FOUND, KNOWN, 30, 1)[-1].begins == 30
    assert renew(FOUND, KNOWN, 60, 1)[-1].begins == 50


def test_what_was_noted_is_good_as_far_as_later_epochs_took_it_over() -> None:
    renewals = (Renewal(1, 0), Renewal(5, 30), Renewal(9, 70))
    assert holds(renewals, 1, 30)
    assert not holds(renewals, 1, 31)
    assert holds(renewals, 5, 70)
    assert not holds(renewals, 5, 71)
    assert holds(renewals, 9, 1000)


def test_only_so_many_epochs_are_remembered() -> None:
    found = FOUND
    for number in range(100):
        renewals = renew(found, None, number, number)
        found = found._replace(epoch=renewals[-1].epoch, renewals=renewals)
    assert len(found.renewals) == 16
    assert found.renewals == tuple(sorted(found.renewals))


@given(st.lists(st.builds(Renewal, st.integers(0, 1 << 53), st.integers(0, 1 << 43))))
def test_epochs_are_read_as_they_were_written(renewals: list[Renewal]) -> None:
    assert read(write(tuple(renewals))) == tuple(renewals)


@given(st.text())
def test_other_text_is_no_epochs_and_no_error(text: str) -> None:
    assert isinstance(read(text), tuple)


@given(st.data())
def test_no_position_ever_stands_for_two_messages_for_nodes_that_have_seen_what_was_lost(
    data: st.DataObject,
) -> None:
    """A server that goes back to older states, and two nodes that come by when they come. Each
    writes only on a stream that it has judged. Events that one node alone has seen, and the server
    has lost, are the limit of what can be known: both see all there is before it goes back."""
    clock = 1000
    log: list[tuple[int, str]] = []
    epoch = 1000
    renewals: tuple[Renewal, ...] = (Renewal(1000, 0),)
    copies = [(list(log), epoch, renewals)]
    nodes: list[Known | None] = [None, None]
    meaning: dict[tuple[int, int], tuple[int, str]] = {}

    def look(index: int) -> None:
        nonlocal epoch, renewals
        for _ in range(3):
            known = nodes[index]
            found = Found(epoch, 900, 1, len(log), renewals)
            there = None
            if known is not None and 1 <= known.message <= len(log):
                there = Stored(*log[known.message - 1])
            if judge(found, known, there) is not Verdict.LOST:
                break
            assert known is not None
            survived = sum(1 for time, _ in log if time <= known.time)
            renewals = renew(found, known, survived, clock)
            epoch = renewals[-1].epoch
        else:
            raise AssertionError("it does not come to an end")
        nodes[index] = Known(epoch, len(log), log[-1][0] if log else 0)
        for number, message in enumerate(log, 1):
            if known is None or known.epoch != epoch or number > known.message:
                assert meaning.setdefault((epoch, number), message) == message

    for _ in range(data.draw(st.integers(1, 25))):
        clock += data.draw(st.integers(1, 3))
        what = data.draw(st.sampled_from(["write", "write", "look", "copy", "back"]))
        index = data.draw(st.integers(0, 1))
        if what == "write":
            look(index)
            log.append((clock, f"{clock}"))
            look(index)
        elif what == "look":
            look(index)
        elif what == "copy":
            copies.append((list(log), epoch, renewals))
        else:
            look(0)
            look(1)
            older, epoch, renewals = data.draw(st.sampled_from(copies))
            log = list(older)
