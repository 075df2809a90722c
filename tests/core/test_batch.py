"""What is kept of what was published, and what is joined of it."""

from tests.core.samples import event
from tests.core.wires import Part, stream
from twinwire.core.batch import Batch, Notes, ordered


def test_counts_last_when_what_all_have_taken_is_dropped() -> None:
    wire = stream()
    batch = Batch(wire.encoding)
    one, two = Notes(batch), Notes(batch)
    for seq in (1, 2, 3):
        (one if seq % 2 else two).add(event(seq), "a", None)
    batch.mark = batch.end
    for seq in (4, 5):
        (one if seq % 2 else two).add(event(seq), "a", None)
    assert (one.last, two.last, batch.end) == (4, 3, 5)
    both = [Part(seq, "") for seq in range(1, 6)]
    assert wire.read(ordered([one, two], 0)) == both
    for notes in (one, two):
        notes.drop()
    batch.drop()
    assert len(batch.parts) == 2
    assert (one.last, two.last, batch.end) == (4, 3, 5)
    assert wire.read(ordered([one, two], 0)) == both[3:]
    assert wire.read(ordered([two, one], 4)) == both[4:]
    assert ordered([one, two], 5) == ordered([], 0) == []


def test_what_was_joined_is_given_again_until_more_is_published() -> None:
    wire = stream()
    batch = Batch(wire.encoding)
    notes, others = Notes(batch), Notes(batch)
    for seq in (1, 2):
        notes.add(event(seq), "a", None)
    joined = notes.joined(wire, 0, 1)
    assert notes.joined(wire, 0, 1) is joined
    # What it has from there on is the same.
    assert notes.joined(wire, -1, 1) is joined
    assert wire.read(notes.joined(wire, 1, 1)) == [Part(2, "")]
    others.add(event(3), "b", None)
    assert notes.joined(wire, 0, 1) == joined
    assert wire.read(others.joined(wire, 0, 1)) == [Part(3, "")]
