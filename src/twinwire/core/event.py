"""What is published and where: events, positions, channel names and patterns.

A channel name is one or more tokens joined by dots, `prices.EURUSD`; a token is any printable
characters but the space, the dot and the two wildcards. A pattern is a name in which `*` stands for
one whole token, and a last `>` for one or more. The lone pattern `>` is every channel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from twinwire.errors import BadChannel, BadEvent, BadPosition, TooLarge

CHANNEL_MAX: Final = 255
"""Characters in a channel name or pattern, at most."""

FIELD_MAX: Final = 255
"""Characters in a key, a type, a tag's name or a tag's value, at most."""

CONTROL_TYPES: Final = frozenset(
    {"gap", "heartbeat", "reconnect", "error", "token", "open", "join", "leave", "unsubscribe"}
)
"""Event types that a stream uses for itself; publishing under them would forge control events.

`open` and `error` are also what a browser's `EventSource` fires at its own `onopen` and `onerror`.
"""

_KEPT: Final = 16_384
"""Channels, fields and sets of tags that are remembered as checked, at most of each."""

# 2**53 - 1 is the largest number that a JavaScript client holds exactly.
_NUMBER_MAX: Final = 2**53 - 1
_POSITION: Final = re.compile(r"([0-9]{1,16})-([0-9]{1,16})", re.ASCII)


class Position(NamedTuple):
    """A place in the log. Positions of one log sort in the order of its events.

    `epoch` is when the log was born, in ms since 1970, so that a newer log's positions sort after
    an older one's; `seq` counts up by the log's events, over all channels; 0 is before the first.
    """

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read ``epoch-seq``. Raises `BadPosition`."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise BadPosition(text)
        position = cls(int(match[1]), int(match[2]))
        if position.epoch > _NUMBER_MAX or position.seq > _NUMBER_MAX:
            raise BadPosition(text)
        return position


class Kind(Enum):
    """What the bytes of `Event.data` are."""

    JSON = "json"
    TEXT = "text"
    BYTES = "bytes"


class Publisher(msgspec.Struct, frozen=True, gc=False):
    """The client that published an event over its connection."""

    user: str = ""
    client: str = ""
    conn_info: Raw | msgspec.UnsetType = msgspec.UNSET


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What a publisher says: an event before the broker has given it a position.

    `data` is raw: JSON without line breaks between its tokens, UTF-8 text, or any bytes.
    """

    channel: str
    data: bytes
    kind: Kind = Kind.JSON
    key: str | None = None
    type: str | None = None
    tags: Mapping[str, str] | None = None
    publisher: Publisher | None = None
    idempotency_key: str = ""
    """Two drafts of one channel with one key are one event, however often it is published."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """A published event. `time` is the broker's, in ms since 1970.

    A newer event of the same `key` on the same channel supersedes this one in mode `latest`; an
    event without a key is superseded by the next one of its channel that has none. Events share
    their `tags`, which nobody may change.
    """

    channel: str
    data: bytes
    epoch: int
    seq: int
    time: int
    kind: Kind = Kind.JSON
    key: str | None = None
    type: str | None = None
    tags: Mapping[str, str] | None = None
    publisher: Publisher | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    def json(self) -> Any:
        """The data as Python values: decoded JSON, the text, or the bytes as they are."""
        if self.kind is Kind.JSON:
            return msgspec.json.decode(self.data)
        return self.data.decode() if self.kind is Kind.TEXT else self.data

    @classmethod
    def of(cls, draft: Draft, position: Position, time: int) -> Event:
        """The event that `draft` becomes at `position`."""
        return cls(
            draft.channel, draft.data, position.epoch, position.seq, time,
            draft.kind, draft.key, draft.type, draft.tags, draft.publisher,
        )  # fmt: skip


def draft(
    channel: str,
    data: Any,
    *,
    key: str | None = None,
    type: str | None = None,
    tags: Mapping[str, str] | None = None,
    publisher: Publisher | None = None,
    idempotency_key: str = "",
    max_bytes: int,
) -> Draft:
    """Check what is to be published and encode it, once.

    `data` may be `str` (text), `bytes` (bytes), `msgspec.Raw` (JSON, already encoded and checked
    to be UTF-8) or anything that msgspec can write as JSON. Raises `BadChannel`, `BadEvent`, and
    `TooLarge` if the encoded data has more than `max_bytes`.
    """
    channel = _channel(channel)
    if isinstance(data, str):
        try:
            kind, raw = Kind.TEXT, data.encode()
        except UnicodeEncodeError as error:
            raise BadEvent("data", f"the text is not valid Unicode: {error}") from None
    elif isinstance(data, _BYTES):
        kind, raw = Kind.BYTES, bytes(data)
    else:
        try:
            kind, raw = Kind.JSON, json_of(data)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadEvent("data", f"cannot be written as JSON: {error}") from None
    if len(raw) > max_bytes:
        raise TooLarge(f"an event of {len(raw)} bytes", "event_max_bytes", max_bytes)
    if key is not None:
        key = _field("key", key)
    if type is not None:
        type = _field("type", type)
        if type in CONTROL_TYPES:
            raise BadEvent("type", f"{type!r} is one of the stream's own: {_listed(CONTROL_TYPES)}")
    # A copy: the publisher may go on to change its own.
    shared = _tags(tuple(tags.items())) if tags else None
    if idempotency_key:
        _field("idempotency_key", idempotency_key)
    return Draft(channel, raw, kind, key, type, shared, publisher, idempotency_key)


_BYTES: Final = (bytes, bytearray, memoryview)


def json_of(data: Any) -> bytes:
    """`data` as JSON without line breaks; `msgspec.Raw` is JSON already. Raises `TypeError`,
    `ValueError` and `RecursionError` for what cannot be written so."""
    # A copy of what msgspec writes: it cuts its result from a larger piece of memory, of which the
    # rest would be of no use to anybody for as long as the event is retained.
    raw = bytes(data if isinstance(data, Raw) else memoryview(msgspec.json.encode(data)))
    if b"\n" in raw or b"\r" in raw or not raw:
        # From a `Raw`, and only between tokens: a JSON string cannot hold a raw line break. The
        # Centrifuge protocol splits its replies at them, and SSE its fields.
        return msgspec.json.format(raw, indent=-1)
    return raw


# What events have in common is checked once and shared: one channel, key and set of tags comes with
# every request as objects of its own, which would take more memory than the rest of the event.


@lru_cache(maxsize=_KEPT)
def _channel(name: str) -> str:
    check_channel(name)
    return name


@lru_cache(maxsize=_KEPT)
def _tags(tags: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return {_field("tag", name): _field("tag", value) for name, value in tags}


@lru_cache(maxsize=_KEPT)
def _field(field: str, text: str) -> str:
    # Control characters would end a line of an event stream and begin a forged one.
    if not text:
        raise BadEvent(field, "it is empty")
    if len(text) > FIELD_MAX:
        raise BadEvent(field, f"it has {len(text)} characters, at most {FIELD_MAX} are allowed")
    if not text.isprintable():
        raise BadEvent(field, "it has a control character or another one that cannot be printed")
    return text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def check_channel(name: str) -> None:
    """Raises `BadChannel` unless `name` is a channel name (not a pattern)."""
    if _NAME(name) is None or len(name) > CHANNEL_MAX or not name.isprintable():
        raise BadChannel(name, _why(name, pattern=False))


def check_selector(text: str) -> None:
    """Raises `BadChannel` unless `text` is a channel name or a pattern."""
    if not is_pattern(text):
        check_channel(text)
    elif _PATTERN(text) is None or len(text) > CHANNEL_MAX or not text.isprintable():
        raise BadChannel(text, _why(text, pattern=True))


def is_pattern(selector: str) -> bool:
    """Whether `selector` has a wildcard in it."""
    return "*" in selector or ">" in selector


_NAME: Final = re.compile(r"[^ .*>]+(?:\.[^ .*>]+)*").fullmatch
_PATTERN: Final = re.compile(r"(?:(?:\*|[^ .*>]+)\.)*(?:\*|>|[^ .*>]+)").fullmatch


def _why(name: str, *, pattern: bool) -> str:
    if not name:
        return "it is empty"
    if len(name) > CHANNEL_MAX:
        return f"it has {len(name)} characters, at most {CHANNEL_MAX} are allowed"
    if not name.isprintable() or " " in name:
        return "it has a space, a control character or another one that cannot be printed"
    if pattern:
        return "in a pattern '*' is a whole token and '>' the whole last one: prices.*.bid, logs.>"
    if is_pattern(name):
        return "'*' and '>' are for patterns, and events are published to one channel"
    return "its tokens are joined by single dots, as in prices.EURUSD"


class Pattern:
    """A pattern of channel names, ready to be matched."""

    __slots__ = ("_fullmatch", "text")

    def __init__(self, text: str) -> None:
        check_selector(text)
        self.text = text
        tokens = {"*": r"[^.]+", ">": r".+"}
        self._fullmatch = re.compile(
            r"\.".join(tokens.get(token, re.escape(token)) for token in text.split("."))
        ).fullmatch

    def matches(self, channel: str) -> bool:
        return self._fullmatch(channel) is not None

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


@lru_cache(maxsize=4096)
def pattern(text: str) -> Pattern:
    """The `Pattern` of `text`, compiled once for all who ask. Raises `BadChannel`."""
    return Pattern(text)


_NOTHING: Final[frozenset[str]] = frozenset()
"""One for all: an empty set takes as much memory as one of four."""


class Selection:
    """A set of channels: exact names and patterns. Equal sets are equal and hash alike."""

    __slots__ = ("_hash", "exact", "patterns")

    def __init__(self, selectors: Iterable[str] = ()) -> None:
        """Raises `BadChannel` for the first selector that is neither a name nor a pattern."""
        exact: set[str] = set()
        patterns: set[str] = set()
        for selector in selectors:
            check_selector(selector)
            (patterns if is_pattern(selector) else exact).add(selector)
        self._set(frozenset(exact), frozenset(patterns))

    @classmethod
    def of(cls, selectors: Iterable[str]) -> Selection:
        """The set of these, which may be one already. Raises `BadChannel`."""
        return selectors if isinstance(selectors, Selection) else cls(selectors)

    def _set(self, exact: frozenset[str], patterns: frozenset[str]) -> None:
        self.exact: frozenset[str] = exact or _NOTHING
        self.patterns: frozenset[str] = patterns or _NOTHING
        self._hash = hash((self.exact, self.patterns))

    def including(self, selectors: Iterable[str]) -> Selection:
        """This one and `selectors`, of which alone the names are checked. Raises `BadChannel`."""
        more = Selection(selectors)
        return _selection(self.exact | more.exact, self.patterns | more.patterns)

    def without(self, selectors: Iterable[str]) -> Selection:
        """This one without `selectors`, whether it has them or not."""
        gone = frozenset(selectors)
        return _selection(self.exact - gone, self.patterns - gone)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Selection)
            and self._hash == other._hash
            and self.exact == other.exact
            and self.patterns == other.patterns
        )

    def __len__(self) -> int:
        return len(self.exact) + len(self.patterns)

    def __iter__(self) -> Iterator[str]:
        yield from self.exact
        yield from self.patterns

    def matching(self, channel: str) -> Iterator[str]:
        """The selectors that `channel` is selected by."""
        if channel in self.exact:
            yield channel
        for text in self.patterns:
            if pattern(text).matches(channel):
                yield text

    def __contains__(self, selector: str) -> bool:
        return selector in self.exact or selector in self.patterns

    def __repr__(self) -> str:
        return f"Selection({sorted(self)!r})"


def _selection(exact: frozenset[str], patterns: frozenset[str]) -> Selection:
    made = Selection.__new__(Selection)
    made._set(exact, patterns)
    return made
