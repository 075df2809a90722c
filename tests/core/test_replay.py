"""Replay: what feeds that are behind have in common. See also test_lossless."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import CHANNELS, EPOCH, event, selections
from tests.core.wires import Encoding, TestWire
from twinwire.core.event import Selection
from twinwire.core.lane import encoded
from twinwire.core.log import OVERHEAD, Log
from twinwire.core.replay import Replay

ENOUGH = 1 << 40


def log_of(*names: str) -> Log:
    log = Log(EPOCH)
    for seq, name in enumerate(names, 1):
        log.append(event(seq, name))
    return log


def test_what_many_read_is_encoded_once() -> None:
    log, encoding, selection = log_of(*"abaab"), Encoding(per_selector=False), Selection(["a"])
    replay = Replay(log, limit=ENOUGH, kept=ENOUGH)
    assert replay.read(encoding, selection, 0, 5) == (b"(1:)(3:)(4:)", 5)
    assert replay.read(encoding, selection, 1, 5) == (b"(3:)(4:)", 5)
    assert replay.read(encoding, selection, 1, 3) == (b"(3:)", 3)
    assert replay.read(encoding, selection, 4, 5) == (b"", 5)
    assert encoding.encoded == [b"(1:)", b"(3:)", b"(4:)"]


def test_readers_who_come_from_different_positions_meet() -> None:
    log, encoding, selection = log_of(*"aaaaaa"), Encoding(per_selector=False), Selection(["a"])
    replay = Replay(log, limit=2 * OVERHEAD, kept=ENOUGH)
    reached = {after: after for after in (0, 1)}
    for _ in range(4):
        for after, position in reached.items():
            if position < log.head:
                _, reached[after] = replay.read(encoding, selection, position, log.head)
    assert set(reached.values()) == {6}
    assert len(encoding.encoded) <= 6 + 1


def test_what_is_kept_is_bounded() -> None:
    log, encoding, selection = log_of(*"a" * 100), Encoding(per_selector=False), Selection(["a"])
    replay = Replay(log, limit=OVERHEAD, kept=200)
    for after in range(100):
        assert replay.read(encoding, selection, after, 100)[0]
    assert replay._size <= 200 + OVERHEAD
    replay.clear()
    assert replay._size == 0


@given(
    st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=60),
    selections,
    st.booleans(),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_replay_gives_what_the_log_has(
    names: list[str], chosen: frozenset[str], each: bool, events: int, dice: random.Random
) -> None:
    log, encoding, selection = Log(EPOCH), Encoding(per_selector=each), Selection(chosen)
    wire = TestWire(encoding, resumes=True)
    replay = Replay(log, limit=events * OVERHEAD, kept=dice.choice([0, 100, 1000]))
    for seq, name in enumerate(names, 1):
        log.append(event(seq, name))
        after = dice.randrange(log.head)
        upto = dice.randint(after + 1, log.head)
        joined, reached = replay.read(encoding, selection, after, upto)
        assert after < reached <= upto
        expected = encoded(encoding, log.read(selection, after, reached, ENOUGH).events, selection)
        assert joined == encoding.separator.join(expected)
        assert wire.read([joined] if joined else []) == wire.read(expected)
