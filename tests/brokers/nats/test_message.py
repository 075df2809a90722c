"""Events in messages, and the positions that follow from that."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.brokers.nats.message import (
    SLOTS,
    Item,
    Part,
    Place,
    divide,
    end,
    identify,
    item,
    message_of,
    newest,
    open_message,
    seq,
    wrap,
)
from twinwire.core.event import Draft, Event, Position
from twinwire.errors import BrokerError

items = st.lists(
    st.builds(Item, st.binary(max_size=60), st.sampled_from(["", "", "", "x", "y", "z"])),
    max_size=40,
)


def test_what_is_wrapped_comes_out_at_its_positions() -> None:
    drafts = [Draft("a", b"%d" % number, key="k") for number in range(SLOTS)]
    records = [item(draft).record for draft in drafts]
    events = open_message(wrap(Part(records, ""), 1234), 9, 7)
    expected = [
        Event.of(draft, Position(9, 7 * SLOTS + slot), 1234) for slot, draft in enumerate(drafts)
    ]
    assert events == expected
    assert seq(7, 0) == events[0].seq
    assert end(7) == events[-1].seq == seq(8, 0) - 1
    assert {message_of(event.seq) for event in events} == {7}


@pytest.mark.parametrize("data", [b"", b"hello", b"\x92\x01\x91\x01", b"\x92\x01\x91\xc4\x01x"])
def test_a_foreign_message_is_told(data: bytes) -> None:
    with pytest.raises(BrokerError, match="twinwire's"):
        open_message(data, 1, 1)


def test_a_key_is_the_channels_own_however_the_two_are_written_together() -> None:
    keys = [("a", "b.x"), ("a.b", "x"), ("ab", ".x"), ("a", None), ("a", ""), ("a", " b.x")]
    names = [identify(*key) for key in keys]
    assert len(set(names)) == len(names)
    assert all(len(name) == 22 and name.isascii() for name in names)
    assert identify("a", "b.x") == names[0]


@given(items, st.integers(80, 200), st.sets(st.sampled_from("xyz")))
def test_every_item_has_its_place_in_a_message_that_is_not_too_large(
    items: list[Item], room: int, known: set[str]
) -> None:
    numbers = {id: number for number, id in enumerate(sorted(known), 100)}
    parts, places = divide(items, numbers, room)
    assert len(places) == len(items)
    seen: dict[str, Place | int] = {}
    last = Place(-1, 0)
    for (record, id), place in zip(items, places, strict=True):
        if id in numbers:
            assert place == numbers[id]
            continue
        assert isinstance(place, Place)
        if id in seen:
            assert place == seen[id]
            continue
        assert place > last
        last = place
        assert parts[place.part].records[place.slot] == record
        assert parts[place.part].id == id
        assert not id or len(parts[place.part].records) == 1
        if id:
            seen[id] = place
    for part in parts:
        assert part.records
        assert len(wrap(part, 1 << 45)) <= room
        assert len(part.records) <= SLOTS
    # Neighbours without an id stand together as far as they fit.
    for one, two in pairwise(parts):
        if not one.id and not two.id:
            together = [*one.records, two.records[0]]
            assert 16 + sum(len(record) + 5 for record in together) > room


def test_a_message_has_a_place_for_each_of_its_events() -> None:
    parts, places = divide([Item(b"", "")] * (SLOTS + 1), {}, 1 << 20)
    assert [len(part.records) for part in parts] == [SLOTS, 1]
    assert places[-1] == Place(1, 0)


def test_the_newest_event_of_each_key_is_in_the_place_of_its_last() -> None:
    def event(seq: int, key: str | None) -> Event:
        return Event("c", b"", 1, seq, 0, key=key)

    events = [event(1, "a"), event(2, None), event(3, "a"), event(4, "b")]
    assert list(newest(events).values()) == [events[1], events[2], events[3]]
