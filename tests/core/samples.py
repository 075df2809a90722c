"""What the tests of the core are made of: events, selectors, and the plainest way to match them."""

from collections.abc import Iterable

from hypothesis import strategies as st

from twinwire.core.event import Event

EPOCH = 1_763_800_000_000

CHANNELS = ["a", "a.b", "a.c", "a.b.c", "d"]
PATTERNS = ["*", "a.*", "*.b", "a.>", "*.*.c", ">"]
KEYS = [None, "k", "l", "m"]
UNKNOWN = ["x", "x.*"]
SELECTORS = CHANNELS + PATTERNS + UNKNOWN

channels = st.sampled_from(CHANNELS)
keys = st.sampled_from(KEYS)
selectors = st.sampled_from(SELECTORS)
selections = st.frozensets(selectors, min_size=1, max_size=4)


def event(
    seq: int, channel: str = "a", *, key: str | None = None, size: int = 1, time: int = 0
) -> Event:
    return Event(channel, b"x" * size, EPOCH, seq, time, key=key)


def matches(selector: str, channel: str) -> bool:
    """What a pattern means, token by token."""
    pattern, tokens = selector.split("."), channel.split(".")
    for index, token in enumerate(pattern):
        if index >= len(tokens):
            return False
        if token == ">":
            return True
        if token not in ("*", tokens[index]):
            return False
    return len(pattern) == len(tokens)


def selected(selectors: Iterable[str], channel: str) -> bool:
    return any(matches(selector, channel) for selector in selectors)
