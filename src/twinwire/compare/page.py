"""The page: one HTML file made from the figures, which loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from itertools import groupby
from statistics import median
from typing import Final

from twinwire.compare import plots
from twinwire.compare.figures import (
    NAMES,
    ROUNDS_ENOUGH,
    ROWS,
    WIRES,
    Figures,
    Passage,
    Row,
    Wire,
    compared,
    show,
    spread,
)
from twinwire.compare.verdict import Verdict, judge, percent

TOO_BUSY: Final = 0.7
"""The part of its core from which on the load client may be what is measured."""


def page(figures: Figures) -> str:
    """The whole document."""
    style = resources.files("twinwire.compare").joinpath("page.css").read_text()
    body = "\n".join(
        [
            _header(figures),
            _section("Which wire for which job", "", _verdicts(judge(figures))),
            _section("In pictures", _PICTURES, _pictures(figures)),
            *_proxies(figures),
            _section("Every figure", "", _table(figures)),
            _section("How this was measured", "", _method(figures)),
            _FOOTER,
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>SSE or WebSocket? {escape(figures.target)}</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


_FOOTER: Final = (
    "<footer><p>Made by <code>twinwire bench compare</code>. Another machine, network or load has "
    "other figures: measure yours.</p></footer>"
)

_PICTURES: Final = (
    "Less is better in each. A bar is the median of the rounds, its whisker goes from the best "
    "round to the worst."
)


def _section(title: str, note: str, body: str) -> str:
    said = f'<p class="note">{_said(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{said}{body}\n</section>"


def _header(figures: Figures) -> str:
    options = figures.options
    place = (
        "A server of its own on this machine" if figures.own else f"The deployment {figures.target}"
    )
    said = (
        f"{place}, {options.clients:,} clients on one channel, {options.rate:g} events a second, "
        f"{options.rounds} rounds of {options.seconds:g} s for each wire in turns; "
        f"{figures.surroundings.get('time', '')}."
    )
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in warned(figures))
    return f"<header>\n<h1>SSE or WebSocket?</h1>\n<p>{escape(said)}</p>{warnings}\n</header>"


def warned(figures: Figures) -> Iterator[str]:
    """What a reader has to know before believing the figures."""
    for wire in WIRES:
        if why := figures.trouble.get(wire):
            yield f"{NAMES[wire]} does not come through here: {why}."
        came, expected = figures.received.get(wire, [0, 0])
        if came < expected:
            yield (
                f"Over {NAMES[wire]} {came:,} of {expected:,} deliveries came in time. The "
                "latencies are of those that came."
            )
    busiest = max((median(parts) for parts in figures.busy.values() if parts), default=0.0)
    if busiest > TOO_BUSY:
        yield (
            f"The load client was busy for {percent(busiest)} of the time: latencies are its own "
            "in part. Take fewer clients (--clients)."
        )
    if figures.options.rounds < ROUNDS_ENOUGH:
        yield f"With fewer than {ROUNDS_ENOUGH} rounds a difference may be luck."


def _wire(wire: Wire) -> str:
    return f'<span class="wire {wire}">{NAMES[wire]}</span>'


def _verdicts(verdicts: list[Verdict]) -> str:
    cards: list[str] = []
    for verdict in verdicts:
        kind = "card" if verdict.wire or len(cards) % 2 else "card all"
        badge = (
            f'<span class="badge {verdict.wire}">{NAMES[verdict.wire]}</span>'
            if verdict.wire
            else '<span class="badge">Both</span>'
        )
        lead = verdict.lead
        if verdict.wire and lead.startswith(f"{NAMES[verdict.wire]}: "):
            # The badge says it already.
            lead = lead.removeprefix(f"{NAMES[verdict.wire]}: ")
            lead = lead[:1].upper() + lead[1:]
        facts = "".join(f"<li>{_said(fact)}</li>" for fact in verdict.facts)
        cards.append(
            f'<article class="{kind}"><h3>{escape(verdict.title)}</h3>{badge}<p>{_said(lead)}</p>'
            + (f"<ul>{facts}</ul>" if facts else "")
            + "</article>"
        )
    return _grid(cards)


def _grid(cards: list[str], kind: str = "grid") -> str:
    return f'<div class="{kind}">\n' + "\n".join(cards) + "\n</div>"


_UNIT: Final = re.compile(r"(?<=\d) (?=(?:ms|s|B|KiB|%)(?!\w))")


def _said(text: str) -> str:
    """Text for the page; no number is parted from its unit."""
    return escape(_UNIT.sub("\u00a0", text))


def difference(figures: Figures, key: str) -> str:
    """The outcome of a row in a few words."""
    found = compared(figures, key)
    if found is None:
        return ""
    if found.less is None:
        return "no difference"
    return f"{NAMES[found.less]} {percent(found.part)} less"


def _pictures(figures: Figures) -> str:
    cards = []
    for group, of_group in groupby(ROWS.values(), key=lambda row: row.group):
        shown = "".join(_picture(figures, row) for row in of_group)
        if group == "Delivery" and figures.curves:
            shown = (
                "<h4>The part of all deliveries that took up to so many ms</h4>"
                f"{plots.latencies(figures.curves)}{shown}"
            )
        if shown:
            cards.append(f'<article class="card"><h3>{escape(group)}</h3>{shown}</article>')
    return _grid(cards, "columns")


def _picture(figures: Figures, row: Row) -> str:
    values = {wire: figures.of(row.key, wire) for wire in WIRES if figures.of(row.key, wire)}
    if not values:
        return ""
    medians = {wire: median(rounds) for wire, rounds in values.items()}
    outcome = difference(figures, row.key) or "of one wire only"
    return (
        f"<h4>{escape(row.title)} <span>{_said(outcome)}</span></h4>"
        f"{plots.bars(row, values, medians)}"
    )


_OUTCOMES: Final = {"passed": "passes", "held": "held back", "refused": "refused"}


def _proxies(figures: Figures) -> Iterator[str]:
    if not figures.passages:
        return
    note = (
        f"Our client behind four small proxies, {figures.hold_rate:g} events a second. The two "
        f"that buffer wait until {show(figures.hold, 'B')} have come together, as proxies do with "
        "answers; the server's header X-Accel-Buffering asks them not to, and nginx heeds it. A "
        f"client comes back after {figures.silence:g} s of silence"
    ) + (" here, 37.5 s as a rule." if figures.own else ".")
    most = max((passage.longest for passage in figures.passages), default=0.0)
    cards: list[str] = []
    rows: list[str] = []
    for name, group in groupby(figures.passages, key=lambda passage: passage.proxy):
        passages = list(group)
        cards.append(
            f'<article class="card"><h3>{escape(name[:1].upper() + name[1:])}</h3>'
            f"{plots.delays(passages, name, most)}"
            f'<p class="difference">{"; ".join(map(_outcome, passages))}</p></article>'
        )
        for passage in passages:
            said = "; ".join(dict.fromkeys(passage.said)) or "nothing"
            rows.append(
                f'<tr><th scope="row">{escape(name)}</th><td>{_wire(passage.wire)}</td>'
                f"<td>{_OUTCOMES[passage.outcome]}</td>"
                f"<td>{len(passage.points)} of {passage.published}</td>"
                f"<td>{f'{passage.longest:.2f} s' if passage.points else '–'}</td>"
                f'<td class="words">{escape(said)}</td></tr>'
            )
    table = (
        '<article class="card all"><div class="scroll" tabindex="0" role="region" '
        'aria-label="Behind proxies"><table><caption>'
        "What came through, and what our client noticed.</caption><thead><tr>"
        '<th scope="col">the proxy …</th><th scope="col">wire</th><th scope="col">outcome</th>'
        '<th scope="col">events</th><th scope="col">latest by</th>'
        '<th scope="col" class="words">the client noticed</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></article>"
    )
    yield _section("Behind proxies", note, _grid([*cards, table]))


def _outcome(passage: Passage) -> str:
    return f"{_wire(passage.wire)} {_OUTCOMES[passage.outcome]}"


def _table(figures: Figures) -> str:
    rows = []
    for group, of_group in groupby(ROWS.values(), key=lambda row: row.group):
        rows.append(f'<tr class="group"><th colspan="4" scope="rowgroup">{escape(group)}</th></tr>')
        for row in of_group:
            cells = "".join(f"<td>{_cell(figures, row, wire)}</td>" for wire in WIRES)
            rows.append(
                f'<tr><th scope="row">{escape(row.title)}</th>{cells}'
                f"<td>{_said(difference(figures, row.key) or '–')}</td></tr>"
                f'<tr class="means"><td colspan="4">{escape(row.means)}</td></tr>'
            )
    heads = "".join(f'<th scope="col">{_wire(wire)}</th>' for wire in WIRES)
    return (
        '<div class="card"><table><caption>The median of the rounds, and below it from the best to '
        f'the worst.</caption><thead><tr><th scope="col">figure</th>{heads}'
        f'<th scope="col">difference</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _cell(figures: Figures, row: Row, wire: Wire) -> str:
    values = figures.of(row.key, wire)
    if not values:
        return f"<small>{escape(figures.why_absent(row.key, wire) or 'not measured')}</small>"
    around = spread(values, row.unit)
    small = f"<small>{escape(around)}</small>" if around else ""
    return f"{_said(show(median(values), row.unit))}{small}"


_METHOD: Final = (
    (
        "Two figures differ if all rounds of one lie below all rounds of the other; with five "
        "rounds or more also if the same wire has less in each of them, by more than half of how "
        "much the difference varies. It has to be 3 % at least. Everything else is no difference."
    ),
    (
        "The clients are light ones on raw sockets, one process for all, which look for the time "
        "stamp in each event and parse nothing else. They speak HTTP/1.1, uncompressed. A browser "
        "or an SDK needs more time of its own on either wire."
    ),
    (
        "Events are published by POST at fixed times, and their age counts from when they were "
        "due, so that a server that holds the publisher up cannot hide it."
    ),
)


def _method(figures: Figures) -> str:
    options = figures.options
    paragraphs = list(_METHOD)
    if figures.own:
        paragraphs.append(
            "For each round and wire a server is started afresh, so that neither profits from what "
            "the other has left behind."
        )
    facts = dict(figures.surroundings)
    facts["channel"] = options.channel
    for wire in WIRES:
        if parts := figures.busy.get(wire):
            facts[f"load client, {NAMES[wire]}"] = f"busy for {percent(median(parts))} of a core"
        if (counted := figures.received.get(wire)) is not None:
            facts[f"deliveries, {NAMES[wire]}"] = f"{counted[0]:,} of {counted[1]:,}"
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    told = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)
    return f'<div class="card">{told}<dl>{listed}</dl></div>'
