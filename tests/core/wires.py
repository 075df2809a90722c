"""Wires for the tests of feeds and lanes, of which everything that was written can be read back."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from twinwire.core.event import Event
from twinwire.core.feed import Gap

_PART: Final = re.compile(rb"\((\d+):([^)]*)\)")


class Part(NamedTuple):
    """An event as it was written; `selector` where each subscription gets its own."""

    seq: int
    selector: str


class Encoding:
    """Writes ``(seq:selector)``, and counts what it encodes."""

    def __init__(self, *, per_selector: bool) -> None:
        self.per_selector = per_selector
        self.separator = b"\n" if per_selector else b""
        self.encoded: list[bytes] = []

    def event(self, event: Event, selector: str) -> bytes:
        name = selector if self.per_selector else ""
        self.encoded.append(b"(%d:%b)" % (event.seq, name.encode()))
        return self.encoded[-1]


class TestWire:
    """Joins to a list of its own."""

    __test__ = False

    packs = False

    def __init__(self, encoding: Encoding, *, resumes: bool) -> None:
        self.encoding = encoding
        self.resumes = resumes

    def join(self, parts: Sequence[Any], readers: int = 1) -> list[Any]:
        return list(parts)

    def gap(self, gap: Gap) -> Gap:
        return gap

    def read(self, joined: Iterable[bytes | Gap]) -> list[Part | Gap]:
        """What was joined."""
        items: list[Part | Gap] = []
        for item in joined:
            if isinstance(item, Gap):
                items.append(item)
            else:
                parts = _PART.findall(item)
                assert item == self.encoding.separator.join(b"(%b:%b)" % part for part in parts)
                items += (Part(int(seq), selector.decode()) for seq, selector in parts)
        return items


def stream() -> TestWire:
    """Like SSE: an event is written once, and the stream goes on after a gap."""
    return TestWire(Encoding(per_selector=False), resumes=True)


def subscriptions() -> TestWire:
    """Like Centrifuge: each subscription gets its own, and a gap ends it."""
    return TestWire(Encoding(per_selector=True), resumes=False)


class PackingWire:
    """Like a stream that is compressed: what it has joined is between brackets, and counted."""

    resumes = True
    packs = True

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.joined: list[bytes] = []

    def join(self, parts: Sequence[bytes], readers: int = 1) -> bytes:
        self.joined.append(b"[%b]" % self.encoding.separator.join(parts))
        return self.joined[-1]

    def gap(self, gap: Gap) -> bytes:
        return b"gap"

    def read(self, data: bytes) -> bytes:
        """The parts that were joined, without the brackets."""
        return self.encoding.separator.join(re.findall(rb"\[([^]]*)\]", data))
