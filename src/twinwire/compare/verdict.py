"""Which wire for which job, in words made from the figures.

1. Each job has a wire that is right by its nature, and rows that count for it (`JOBS`).
2. It is that wire, unless the other needs less in more of those rows than it does; then the words
   say that the figures lean the other way, and what they do not show.
3. A wire that does not come through at all is right for nothing.
4. Figures that do not differ (`figures.compare`) are named as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final, NamedTuple

from twinwire.compare.figures import (
    NAMES,
    ROWS,
    WIRES,
    Comparison,
    Figures,
    Passage,
    Wire,
    compared,
    show,
)


class Job(NamedTuple):
    """What somebody wants to do: the rows that count, the wire for it, and why in general."""

    title: str
    rows: tuple[str, ...]
    wire: Wire
    because: str


JOBS: Final = (
    Job(
        "Price ticks and notifications",
        ("p50", "p99", "bytes_event", "cpu", "memory"),
        "sse",
        "it is plain HTTP and one way, and a browser comes back by itself, at its position",
    ),
    Job(
        "A trading terminal that sends orders",
        ("command", "publish", "publish_fresh", "p99"),
        "ws",
        "one connection carries prices and orders, text or binary, both ways in order",
    ),
    Job(
        "Phones, which come and go",
        ("connect", "snapshot", "resume", "bytes_connect"),
        "sse",
        "it is live one round trip earlier, which counts for more the longer the way is",
    ),
    Job(
        "Very many quiet clients",
        ("memory", "bytes_heartbeat", "cpu"),
        "sse",
        "nothing has to be answered: clients only listen",
    ),
)


class Verdict(NamedTuple):
    """The wire for a job: the reason in a sentence, and the figures in some more."""

    title: str
    wire: Wire | None
    lead: str
    facts: tuple[str, ...]


def judge(figures: Figures) -> list[Verdict]:
    """One verdict for each job, and one for networks with proxies in them."""
    found = [_on(job, figures) for job in JOBS]
    if figures.passages:
        found.append(_behind_proxies(figures))
    return found


def other(wire: Wire) -> Wire:
    """The other one of the two."""
    return "ws" if wire == "sse" else "sse"


def _on(job: Job, figures: Figures) -> Verdict:
    rows = {key: found for key in job.rows if (found := compared(figures, key)) is not None}
    facts = tuple(_facts(rows, job, figures))
    for wire in WIRES:
        if why := figures.trouble.get(wire):
            left = other(wire)
            lead = f"{NAMES[left]}, since {NAMES[wire]} does not come through here: {why}."
            return Verdict(job.title, left, lead, facts)
    ours = sum(found.less == job.wire for found in rows.values())
    theirs = sum(found.less == other(job.wire) for found in rows.values())
    if theirs <= ours:
        return Verdict(job.title, job.wire, f"{NAMES[job.wire]}: {job.because}.", facts)
    lead = (
        f"{NAMES[other(job.wire)]}, by these figures: it needs less in {theirs} of {len(rows)}, "
        f"{NAMES[job.wire]} in {ours or 'none'}. What they do not show of {NAMES[job.wire]}: "
        f"{job.because}."
    )
    return Verdict(job.title, other(job.wire), lead, facts)


def _facts(rows: dict[str, Comparison], job: Job, figures: Figures) -> Iterator[str]:
    same = []
    for key, found in rows.items():
        row = ROWS[key]
        if found.less is None:
            values = {show(found.medians[wire], row.unit): None for wire in WIRES}
            same.append(f"{row.noun} ({' and '.join(values)})")
        else:
            less, more = (show(found.medians[w], row.unit) for w in (found.less, other(found.less)))
            yield (
                f"{row.noun[:1].upper()}{row.noun[1:]}: {NAMES[found.less]} {less} against {more}"
                f" ({percent(found.part)} less)."
            )
    if same:
        yield f"No difference in {_listed(same)}."
    missing = [
        ROWS[key].noun for key in job.rows
        if key not in rows and any(figures.of(key, wire) for wire in WIRES) and not figures.trouble
    ]  # fmt: skip
    unseen = [key for key in job.rows if key not in rows and key in figures.absent]
    if unseen:
        nouns = _listed([ROWS[key].noun for key in unseen])
        yield f"Not measured: {nouns}, {figures.absent[unseen[0]]}."
    if missing:
        yield f"Of one wire only: {_listed(missing)}."


def percent(part: float) -> str:
    """A part as people write it."""
    return f"{part * 100:.0f} %"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _behind_proxies(figures: Figures) -> Verdict:
    held = [p for p in figures.passages if p.outcome == "held"]
    refused = [p for p in figures.passages if p.outcome == "refused"]
    facts = [_told(passage, figures) for passage in (*held, *refused)]
    passes = {
        wire: sum(p.outcome == "passed" for p in figures.passages if p.wire == wire)
        for wire in WIRES
    }
    count = sum(p.wire == "sse" for p in figures.passages)
    facts.append(
        f"Of {count} kinds of proxies, {passes['sse']} leave SSE unharmed and {passes['ws']} "
        "WebSocket."
    )
    wire: Wire | None = None
    if not held and not refused:
        lead = "Either: both came through every proxy."
    elif any(p.wire == "ws" for p in refused) and any(p.wire == "sse" for p in held):
        lead = (
            "Offer both: each is stopped by another kind of proxy, and a position that was reached "
            "on one wire is good on the other."
        )
    else:
        wire = "sse" if passes["sse"] > passes["ws"] else "ws"
        lead = f"{NAMES[wire]}: it came through more kinds of proxies."
    return Verdict("Behind proxies that are not yours", wire, lead, tuple(facts))


def _told(passage: Passage, figures: Figures) -> str:
    """What happened to a wire that did not pass unharmed, in a sentence or three."""
    name = NAMES[passage.wire]
    place = f"Behind a proxy that {passage.proxy}"
    if passage.outcome == "refused":
        return f"{place}, {name} is refused, and the client stays away."
    came = len(passage.points)
    late = f" for up to {passage.longest:.1f} s" if came else ""
    held = f"{place}, {name} is held back{late} at {figures.hold_rate:g} events/s"
    sentences = [f"{held}, and {came or 'none'} of {passage.published} events came."]
    if size := figures.of("bytes_event", passage.wire):
        pause = figures.hold / median(size)
        sentences.append(
            f"At one event a second it would be {pause:.0f} s: {show(figures.hold, 'B')} have to"
            " come together first."
        )
    if passage.said:
        sentences.append("The client misses the heartbeats and comes back, in vain.")
    return " ".join(sentences)


def words(verdicts: Sequence[Verdict]) -> list[str]:
    """The verdicts as lines of text."""
    lines = []
    for verdict in verdicts:
        lines += [verdict.title, f"  {verdict.lead}", *(f"  {fact}" for fact in verdict.facts)]
    return lines
