"""How a subscription begins on a connection that has others, and what it brings back."""

from __future__ import annotations

from typing import NamedTuple

from twinwire.core.event import Event, Position, Selection
from twinwire.core.feed import Feed, Mode, Start, knows
from twinwire.core.log import Log


class Recovery(NamedTuple):
    """How a subscription begins: what it missed, whether that is all, and from where it goes on.

    It goes on from the last of `events`, or from `start` without any. If that is not all, what is
    missing lies before `start`.
    """

    events: list[Event]
    recovered: bool
    start: Position


def subscribe(
    feed: Feed,
    selector: str,
    mode: Mode,
    since: Position | Start | None,
    log: Log,
    limit: int,
) -> Recovery:
    """Add `selector` to a feed that is out of its lane, recovering what came after `since`.

    About `limit` bytes of missed events are returned; the feed goes on to deliver the rest. If
    some of them are gone, a subscription to every event starts at the head with none, and one to
    the latest starts anew with the newest of each key.
    """
    latest = mode is Mode.LATEST
    lost = log.keys_lost(selector) if latest else log.evicted(selector)
    known = since if isinstance(since, Position) and knows(log, since) else None
    recovered = since is Start.EARLIEST or (known is not None and lost <= known.seq)
    if since is Start.EARLIEST or (latest and not recovered):
        after = 0
    else:
        after = known.seq if known is not None and recovered else log.head
    read = log.read_latest if latest else log.read
    events, reached = read(Selection((selector,)), after, log.head, limit)
    feed.add(selector, mode, reached)
    if since is Start.EARLIEST:
        # What is gone was not asked for, and must not be missed after a reconnect either.
        feed.declared[selector] = lost
        after = min([lost, *(event.seq - 1 for event in events[:1])])
    if recovered:
        return Recovery(events, True, Position(log.epoch, after))
    # The client knows now that it has not been told everything up to here. A snapshot may not have
    # come as far as what is lost when the answer is full; the rest follows, and the client asks
    # for it again from the last event it got.
    feed.declared[selector] = lost
    return Recovery(events, False, Position(log.epoch, max(reached, lost)))
