"""Plots as SVG: a curve of latencies, pairs of bars, and delays over time.

Each is 360 units wide, as a phone is, so that its text is readable there without shrinking. Colours
and fonts come from the page's style sheet. The wires differ by colour, by dash, and by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from twinwire.compare.figures import NAMES, WIRES, Passage, Row, Wire, quantile, show

WIDTH: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 14, 34


def svg(height: float, title: str, description: str, parts: Sequence[str]) -> str:
    """A picture with its title and description for those who do not see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    """A piece of text; `kind` is its class in the style sheet."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(said)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through these points."""
    return f'<path d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" class="{kind}"/>'


def ticks(most: float, steps: int = 5) -> list[float]:
    """Round numbers from 0 on in at most so many `steps`, at least 2; the last is at or above
    `most`."""
    if most <= 0:
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(most))
    for part in (0.2, 0.25, 0.5, 1.0, 2.0, 5.0):
        count = math.ceil(most / (step * part) - 1e-9)
        if count <= steps:
            return [step * part * n for n in range(count + 1)]
    raise AssertionError("one of the parts always fits")


def latencies(curves: Mapping[str, Sequence[float]]) -> str:
    """Which part of all deliveries took up to how many ms; up to the later p99 and a bit more."""
    height = 236
    floor = height - _BOTTOM
    shown = [wire for wire in WIRES if curves.get(wire)]
    # The slowest in a hundred would press everything else to the wall.
    most = max((quantile(curves[wire], 0.99) for wire in shown), default=1.0) * 1.15
    marks = ticks(most)
    most = marks[-1] if marks[-1] < most * 1.3 else most

    def x(ms: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(ms / most, 1.0)

    def y(part: float) -> float:
        return floor - (floor - _TOP) * part

    parts = []
    for part in (0.0, 0.5, 0.99):
        parts.append(line(_LEFT, y(part), WIDTH - _RIGHT, y(part), "grid"))
        parts.append(text(_LEFT - 6, y(part) + 4, f"{part:.0%}", "tick", "end"))
    for mark in marks:
        if mark <= most:
            parts.append(text(x(mark), floor + 16, f"{mark:g}", "tick", "middle"))
    parts.append(text(WIDTH - _RIGHT, height - 3, "ms until a client has it", "tick", "end"))
    said = []
    for n, wire in enumerate(shown):
        points = [(x(ms), y(step / 200)) for step, ms in enumerate(curves[wire]) if ms <= most]
        parts.append(path(points, f"curve {wire}"))
        p50, p99 = (quantile(curves[wire], part) for part in (0.5, 0.99))
        for part, value in ((0.5, p50), (0.99, p99)):
            parts.append(
                f'<circle cx="{x(value):.1f}" cy="{y(part):.1f}" r="3" class="dot {wire}"/>'
            )
        parts += _key(WIDTH - _RIGHT - 110, floor - 34 + n * 19, wire, NAMES[wire])
        said.append(f"{NAMES[wire]}: p50 {show(p50, 'ms')}, p99 {show(p99, 'ms')}.")
    return svg(height, "Delivery latency of both wires", " ".join(said), parts)


def _key(x: float, y: float, wire: Wire, label: str) -> list[str]:
    return [line(x, y - 4, x + 22, y - 4, f"curve {wire}"), text(x + 28, y, label, "label")]


def bars(row: Row, values: Mapping[Wire, Sequence[float]], medians: Mapping[Wire, float]) -> str:
    """One bar for each wire that has a figure, from 0, with the spread of its rounds."""
    most = max(max(values[wire]) for wire in medians) or 1.0
    left, room = 82, WIDTH - 82 - 84
    parts, said = [], []
    for n, (wire, middle) in enumerate(medians.items()):
        y = 6 + n * 28
        length = max(room * middle / most, 1.0)
        low, high = (left + room * edge(values[wire]) / most for edge in (min, max))
        parts.append(text(left - 8, y + 14, NAMES[wire], "label", "end"))
        parts.append(
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="20" rx="3" class="bar {wire}"/>'
        )
        if high - low > 3:
            parts += [
                line(low, y + 10, high, y + 10, "whisker"),
                line(low, y + 6, low, y + 14, "whisker"),
                line(high, y + 6, high, y + 14, "whisker"),
            ]
        parts.append(text(max(left + length, high) + 7, y + 14, show(middle, row.unit), "value"))
        said.append(f"{NAMES[wire]} {show(middle, row.unit)}")
    return svg(6 + 28 * len(medians), row.title, ", ".join(said) + ".", parts)


def delays(passages: Sequence[Passage], name: str, most: float) -> str:
    """Behind one proxy: each event's delay, by when it was published."""
    height = 150
    floor = height - _BOTTOM
    marks = ticks(most, 3)
    ends = [when for passage in passages for when, _ in passage.points]
    first, last = min(ends, default=0.0), max(ends, default=1.0)

    def x(when: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (when - first) / max(last - first, 1e-9)

    def y(delay: float) -> float:
        return floor - (floor - _TOP) * min(delay / marks[-1], 1.0)

    parts: list[str] = []
    for mark in marks:
        parts.append(line(_LEFT, y(mark), WIDTH - _RIGHT, y(mark), "grid"))
        parts.append(text(_LEFT - 6, y(mark) + 4, f"{mark:g} s", "tick", "end"))
    parts.append(
        text(WIDTH - _RIGHT, height - 12, f"published over {last - first:.1f} s", "tick", "end")
    )
    said = []
    for passage in passages:
        late = ""
        if passage.points:
            # Thinned to what can be seen.
            shown = sorted(passage.points)[:: max(1, len(passage.points) // 400)]
            parts.append(path([(x(when), y(d)) for when, d in shown], f"curve {passage.wire}"))
            late = f", at most {passage.longest:.2f} s late"
        said.append(f"{NAMES[passage.wire]} {passage.outcome}{late}.")
    return svg(height, f"Delay behind a proxy that {name}", " ".join(said), parts)
