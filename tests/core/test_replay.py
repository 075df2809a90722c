"""Replay: what feeds that are behind have in common. See also test_lossless."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import CHANNELS, EPOCH, event, selections
from tests.core.wires import Encoding, PackingWire, TestWire
from twinwire.core.event import Selection
from twinwire.core.log import OVERHEAD, Log
from twinwire.core.replay import SECTION, Replay
from twinwire.core.wire import encoded

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
    wire, packing = TestWire(encoding, resumes=True), PackingWire(encoding)
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
        assert packing.read(replay.read_packed(packing, selection, after, reached)[0]) == joined


def wide() -> tuple[Log, PackingWire, Selection]:
    """A log of 4,000 events, of about six sections, and a wire for it."""
    return log_of(*"a" * 4000), PackingWire(Encoding(per_selector=False)), Selection(["a"])


def test_readers_from_one_position_share_what_is_packed() -> None:
    log, wire, selection = wide()
    replay = Replay(log, limit=ENOUGH, kept=ENOUGH)
    read = {replay.read_packed(wire, selection, 7, 4000) for _ in range(1000)}
    ((data, reached),) = read
    assert reached == 4000
    assert wire.read(data) == replay.read(wire.encoding, selection, 7, 4000)[0]
    assert len(wire.joined) == len(wire.encoding.encoded) * len(b"(1000:)") // SECTION + 1
    assert max(map(len, wire.joined)) <= SECTION + len(b"[(1000:)]")


def test_readers_from_many_positions_share_whole_sections() -> None:
    log, wire, selection = wide()
    replay = Replay(log, limit=ENOUGH, kept=ENOUGH)
    dice = random.Random(1)
    first, _ = replay.read_packed(wire, selection, 0, 4000)
    whole = len(wire.joined)
    for after in dice.sample(range(1, 4000), 500):
        data, _ = replay.read_packed(wire, selection, after, 4000)
        assert wire.read(first).endswith(wire.read(data))
    # Beside the sections, each has packed the part of one that it began with.
    assert len(wire.joined) <= whole + 500


def test_what_is_packed_counts_as_kept() -> None:
    log, wire, selection = wide()
    replay = Replay(log, limit=ENOUGH, kept=100_000)
    for after in range(4000):
        replay.read_packed(wire, selection, after, 4000)
    assert replay._size <= 100_000 + SECTION


def test_what_two_wires_pack_is_kept_apart() -> None:
    log, one, selection = wide()
    other = PackingWire(one.encoding)
    replay = Replay(log, limit=ENOUGH, kept=ENOUGH)
    for wire in (one, other, one):
        replay.read_packed(wire, selection, 0, 4000)
    assert one.joined == other.joined
