"""Plots of a scenario's rows, as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib import ticker

from bench import figures, lib
from bench.run import Row
from bench.scenarios import P99_MS, Plot, Scenario

_WIRES = {"sse": "SSE", "ws": "WebSocket"}
_OURS = ("#1f5fbf", "#4f9be8", "#0b2f66", "#7cc4f5")
_FLOOR = ("#5a5a5a", "#a8a8a8")
_THEIRS = ("#c8501e", "#d99a1c", "#7a4fa3", "#3f8f5b", "#b0447a", "#8c6d46", "#5aa8a0", "#999933")

_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.dpi": 150,
}


def draw(path: Path, scenario: Scenario, rows: Sequence[Row]) -> list[Path]:
    """Write the scenario's plots into the directory; nothing of rows without an outcome."""
    rows = [row for row in rows if row.outcomes]
    made: list[Path] = []
    for plot in scenario.plots if rows else ():
        image = path / f"{scenario.name}-{len(made) + 1}.png"
        with plt.rc_context(_STYLE):
            figure = _lines(scenario, plot, rows) if plot.kind == "lines" else _bars(plot, rows)
            figure.suptitle(scenario.heading, fontsize=11, x=0.02, ha="left")
            figure.savefig(image)
            plt.close(figure)
        made.append(image)
    return made


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    """By row, the same in all plots of a scenario: blues are ours, greys the C servers'."""
    palettes = {"twinwire": iter(_OURS), "floor": iter(_FLOOR), "peer": iter(_THEIRS * 9)}
    found: dict[str, str] = {}
    for row in rows:
        if row.case.row not in found:
            ours = row.case.server.startswith("twinwire")
            kind = "twinwire" if ours else "floor" if row.case.server in lib.FLOORS else "peer"
            found[row.case.row] = next(palettes[kind], "#222222")
    return found


def _plain(axis: Any) -> None:
    """Numbers as one says them, 1, 2 and 5 in each power of ten."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _bars(plot: Plot, rows: Sequence[Row]) -> Any:
    """A panel for each figure, a group for each wire; whiskers from the least to the most."""
    colours = _colours(rows)
    wires = [wire for wire in _WIRES if any(row.case.wire == wire for row in rows)]
    ordered = [row for wire in wires for row in rows if row.case.wire == wire]
    places, place = [], 0.0
    for before, row in zip([None, *ordered], ordered, strict=False):
        place += 0 if before is None else 1 if before.case.wire == row.case.wire else 1.6
        places.append(place)
    height = 1.3 + 0.36 * (places[-1] + 1)
    figure, panels = plt.subplots(
        1, len(plot.figures), figsize=(9, height), layout="constrained", squeeze=False
    )
    for name, axes in zip(plot.figures, panels[0], strict=True):
        form = figures.FIGURES[name].form
        least, most = math.inf, 0.0
        for place, row in zip(places, ordered, strict=True):
            found = figures.values(name, row.outcomes)
            if not found:
                continue
            middle = lib.median(found)
            least, most = min(least, *found), max(most, *found)
            whiskers = [[middle - min(found)], [max(found) - middle]] if len(found) > 1 else None
            axes.barh(
                place, middle, 0.78, color=colours[row.case.row], xerr=whiskers, ecolor="#222222"
            )
            axes.annotate(
                form.format(middle),
                (max(found), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        labels = [
            f"{row.case.row}  ({_WIRES[row.case.wire]})" if len(wires) > 1 else row.case.row
            for row in ordered
        ]
        axes.set_yticks(places, labels if axes is panels[0][0] else [""] * len(labels))
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.invert_yaxis()
        axes.set_title(name, loc="left")
        if plot.log:
            axes.set_xscale("log")
            axes.set_xlim(least / 3, most * 3)
            _plain(axes.xaxis)
        else:
            axes.set_xlim(0, most * 1.2 or 1)
    return figure


def _lines(scenario: Scenario, plot: Plot, rows: Sequence[Row]) -> Any:
    """All that the searches tried, a panel for each wire: the one figure over the other."""
    colours = _colours(rows)
    wires = [wire for wire in _WIRES if any(row.case.wire == wire for row in rows)]
    across, up = (figures.FIGURES[name] for name in plot.figures)
    figure, panels = plt.subplots(
        1, len(wires), figsize=(9, 4.2), layout="constrained", squeeze=False, sharey=True
    )
    for wire, axes in zip(wires, panels[0], strict=True):
        for row in rows:
            if row.case.wire != wire:
                continue
            points = sorted((across.of(o), up.of(o), o["carried"]) for o in row.tried)
            colour = colours[row.case.row]
            carried = [(x, y) for x, y, good in points if good]
            axes.plot(
                *zip(*carried, strict=True), color=colour, marker="o", ms=4, label=row.case.row
            )
            if missed := [(x, y) for x, y, good in points if not good]:
                x, y = zip(*missed, strict=True)
                axes.scatter(x, y, s=22, facecolors="white", edgecolors=colour, zorder=3)
        if not axes.lines and not axes.collections:
            continue  # at one rate only there is no line, and no logarithm of nothing
        axes.axhline(P99_MS, color="#b00020", lw=0.9, ls="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain(axes.xaxis)
        _plain(axes.yaxis)
        axes.set_title(_WIRES[wire], loc="left")
        axes.set_xlabel(
            "million deliveries/s" if plot.figures[0] == "million/s" else plot.figures[0]
        )
    panels[0][0].set_ylabel(plot.figures[1])
    panels[0][-1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
