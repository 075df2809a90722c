"""The newest events of keys and the trimming of the log, against a plain list."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from twinwire.brokers.nats.book import Book, Point
from twinwire.brokers.nats.message import end, message_of, newest, seq
from twinwire.core.event import Event
from twinwire.core.log import Retention


def message(number: int, keys: Sequence[str], time: int = 0) -> list[Event]:
    return [
        Event("c", b"12345", 1, seq(number, slot), time, key=key) for slot, key in enumerate(keys)
    ]


def test_what_has_changed_is_the_newest_of_each_key_the_oldest_first() -> None:
    book = Book(Retention(100), 1000)
    book.note(1, message(1, "aba"))
    book.note(2, message(2, "cb"))
    page = book.page(100)
    assert page is not None
    assert [event.key for event in page.events] == ["a", "c", "b"]
    assert page.covers == end(2)
    book.cover(page.covers)
    assert book.page(100) is None


def test_a_message_that_was_noted_is_nothing_new() -> None:
    book = Book(Retention(100), 1000)
    book.note(5, message(5, "ab"))
    before = book.total
    book.note(5, message(5, "ab"))
    book.note(4, message(4, "x"))
    assert book.total == before


def test_what_another_node_has_covered_is_not_written_again() -> None:
    book = Book(Retention(100), 1000)
    for number in (1, 2, 3):
        book.note(number, message(number, [f"k{number}"]))
    book.cover(end(2))
    page = book.page(100)
    assert page is not None
    assert [event.key for event in page.events] == ["k3"]
    book.cover(end(1))
    assert book.covered == end(2)


def test_keys_that_wait_are_bounded_the_oldest_go_first() -> None:
    book = Book(Retention(100), 2)
    book.note(1, message(1, "abc"))
    page = book.page(100)
    assert page is not None
    assert [event.key for event in page.events] == ["b", "c"]


def test_nothing_is_trimmed_that_is_not_covered() -> None:
    book = Book(Retention(10), 1000)
    for number in range(1, 101):
        book.note(number, message(number, "a"))
    assert book.trim(0) == 0
    book.cover(end(50))
    assert book.trim(0) == 50
    assert book.trim(0) == 0
    book.cover(end(100))
    assert book.trim(0) == 90


def test_bytes_and_age_trim_as_well() -> None:
    book = Book(Retention(0, 50), 1000)
    for number in range(1, 101):
        book.note(number, message(number, "a"))
    book.cover(end(100))
    assert book.trim(0) == 90
    book = Book(Retention(0, 0, 640), 1000)
    for number in range(1, 101):
        book.note(number, message(number, "a", time=number * 100))
    book.cover(end(100))
    assert book.trim(10_000) == 93
    # Also when nothing comes any more.
    assert book.trim(100_000) == 100


def test_what_comes_fast_presses() -> None:
    book = Book(Retention(80), 1000)
    pressing = []
    for number in (1, 2):
        book.note(number, message(number, "a" * 5))
        pressing.append(book.pressing)
    book.cover(end(2))
    assert [*pressing, book.pressing] == [False, True, False]
    book = Book(Retention(0, 400), 1000)
    book.note(1, message(1, "a" * 10))
    assert book.pressing


def test_without_limits_nothing_is_trimmed() -> None:
    book = Book(Retention(), 1000)
    for number in range(1, 101):
        book.note(number, message(number, "a"))
    book.cover(end(100))
    assert book.trim(1 << 50) == 0
    assert len(book.points) == 1


@given(st.data())
def test_a_book_that_is_begun_again_goes_on_where_it_was(data: st.DataObject) -> None:
    """Written by pages of any size, given up and begun again anywhere: the newest of each key are
    on the server or in what lies after what is covered, and enough of the log is kept."""
    keep = data.draw(st.sampled_from([Retention(20), Retention(0, 200), Retention(7, 90)]))
    log: list[list[Event]] = []
    server: dict[tuple[str, str | None], Event] = {}
    covered = 0
    points: list[Point] = []
    first = 1
    book = Book(keep, 1000)
    for _ in range(data.draw(st.integers(1, 30))):
        what = data.draw(st.sampled_from(["note", "note", "write", "again"]))
        if what == "note":
            keys = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6))
            number = len(log) + 1
            log.append(message(number, keys))
            book.note(number, log[-1])
        elif what == "write":
            page = book.page(data.draw(st.integers(1, 5)))
            if page is not None:
                server |= newest(page.events)
                covered, points = page.covers, [*book.points, book.total]
                book.cover(covered)
            first = max(first, book.trim(0) + 1)
        else:
            book = Book(keep, 1000)
            book.begin(covered, points)
            for number in range(book.noted + 1, len(log) + 1):
                assert number >= first
                book.note(number, log[number - 1])
        flat = [event for events in log for event in events]
        after = [event for event in flat if event.seq > covered]
        assert newest([*server.values(), *after]) == newest(flat)
        kept = [event for event in flat if message_of(event.seq) >= first]
        # Whichever limit is reached first.
        enough = min(keep.events or len(flat), keep.bytes // 5 or len(flat), len(flat))
        assert len(kept) >= enough
