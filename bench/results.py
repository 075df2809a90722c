"""Results: one directory for each call, with JSON, plots, and a README.md that has all tables."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import figures, lib, plots
from bench.peers import PEERS as THEIRS
from bench.run import Row
from bench.scenarios import PEERS, Goal, Scenario

DIRECTORY = lib.HERE / "results"


def directory(name: str) -> Path:
    """A new one for what is called so."""
    now = datetime.datetime.now(datetime.UTC)
    path = DIRECTORY / f"{name}-{now:%Y%m%d-%H%M%S}"
    path.mkdir(parents=True)
    return path


def save(path: Path, scenario: Scenario, rows: Sequence[Row]) -> str:
    """Write all that is known of a scenario's runs into the directory: JSON, plots, and a part of
    README.md, which is returned."""
    content = {
        "scenario": dataclasses.asdict(scenario),
        "surroundings": surroundings(),
        "rows": [
            {
                "row": row.case.row,
                "server": row.case.server,
                "wire": row.case.wire,
                "missing": row.missing,
                "outcomes": row.outcomes,
                "tried": row.tried,
            }
            for row in rows
        ],
    }
    (path / f"{scenario.name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    images = plots.draw(path, scenario, rows)
    shown = "\n".join(f"![{scenario.name}]({image.name})" for image in images)
    part = "\n\n".join(filter(None, [tabulate(scenario, rows), shown]))
    page = path / "README.md"
    if not page.exists():
        page.write_text(_preface())
    with page.open("a") as file:
        file.write(f"\n{part}\n")
    return part


# Tables


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, aligned for the terminal too."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def tabulate(scenario: Scenario, rows: Sequence[Row]) -> str:
    """A line for each server, wire and variant, the note, and the goals.

    "× first": the first figure divided by that of the wire's first row, in the same repetition.
    """
    lines = []
    for row in rows:
        first = next(other for other in rows if other.case.wire == row.case.wire)
        shares = _ratios(scenario.columns[0], row, first)
        cells = [figures.spread(column, row.outcomes) for column in scenario.columns]
        cells.insert(1, f"{lib.median(shares):.3g}" if shares else "")
        if not row.outcomes:
            cells[0] = f"– ({next(iter(row.missing.splitlines()), 'not run')})"
        faults = lib.describe_faults(row.outcomes) if row.outcomes else ""
        lines.append([row.case.row, row.case.wire, *cells, faults])
    first_column, *others = scenario.columns
    header = ["", "wire", first_column, "× first", *others, "faults"]
    goals = "\n".join(f"- {verdict}" for goal in scenario.goals for verdict in verdicts(goal, rows))
    parts = [f"## {scenario.heading}", table(header, lines), scenario.note, goals]
    return "\n\n".join(filter(None, parts))


def _ratios(figure: str, row: Row, other: Row) -> list[float]:
    """Of each repetition."""
    ours, theirs = (figures.values(figure, r.outcomes) for r in (row, other))
    return [a / b for a, b in zip(ours, theirs, strict=False) if b]


# Goals


def verdicts(goal: Goal, rows: Sequence[Row]) -> Iterator[str]:
    """Whether it is met, in words, on each wire that has what it is about."""
    for row in rows:
        if not row.outcomes or goal.row not in (row.case.row, f"{row.case.row} ({row.case.wire})"):
            continue
        others = _others(goal, row, rows)
        if goal.over and not others:
            yield f"{_words(goal)} ({row.case.wire}): nothing to compare with"
            continue
        found = figures.values(goal.figure, row.outcomes)
        if others:
            found = _ratios(goal.figure, row, others[0])
        if not found:
            continue
        value = lib.median(found)
        met = (goal.least is None or value >= goal.least) and (
            goal.most is None or value <= goal.most
        )
        name = f", {others[0].case.row}" if goal.over == PEERS else ""
        yield f"{_words(goal)} ({row.case.wire}{name}): {value:.3g}, {'met' if met else 'missed'}"


def _others(goal: Goal, row: Row, rows: Sequence[Row]) -> list[Row]:
    """What the goal divides by; of the peers the one with the highest figure first."""
    alike = [other for other in rows if other.outcomes and other.case.wire == row.case.wire]
    if goal.over != PEERS:
        return [other for other in alike if goal.over == other.case.row]
    theirs = [other for other in alike if other.case.server in THEIRS]
    return sorted(
        theirs, key=lambda r: lib.median(figures.values(goal.figure, r.outcomes)), reverse=True
    )


def _words(goal: Goal) -> str:
    bound = f"≥ {goal.least:g}" if goal.least is not None else f"≤ {goal.most:g}"
    if not goal.over:
        return f"{goal.row}: {goal.figure} {bound}"
    other = "the best peer" if goal.over == PEERS else goal.over
    return f"{goal.row}: {goal.figure} {bound} × {other}"


# Surroundings


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


def surroundings() -> dict[str, Any]:
    """The machine, the versions and the command: what a figure means nothing without."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    compiler, *_ = _output(*lib.compiler(), "--version").splitlines() or [""]
    versions = {"python": platform.python_version(), "cc": compiler}
    for package in ("twinwire", "uvicorn", "uvloop", "httptools", "websockets", "msgspec"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "command": shlex.join(["scripts/bench", *sys.argv[1:]]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(lib.HERE), "describe", "--always", "--dirty"),
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "versions": versions,
        "load_average": os.getloadavg(),
    }


def _preface() -> str:
    found = surroundings()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    memory = found["memory"] / 2**30
    return f"""# Measurements

`{found["command"]}` at {found["time"]}, commit {found["commit"]}.

{found["cpu"]}, {found["cores"]} cores, {memory:.0f} GiB, Linux {found["kernel"]}; {versions}.
The server has one core, the load client with the publisher the other.

Medians of interleaved runs, with the least and the most in brackets; ratios are of the same
repetition.
"""
