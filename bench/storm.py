"""A reconnect storm: all clients drop at once and come back at once, each to its position.

How long until the last one is live again, that is, has everything that was published while it was
away; and what somebody else notices of it: the command round trips of one client that stays, and
the longest time for which the server's event loop was held (see app.py).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import lib
from bench.probe import Probe


class Stall(NamedTuple):
    """The event loop was held: when it was over (s), for how long, and of that our own work (ms).

    Of a stall that other programs have caused a part, the rest is ours."""

    at: float
    late: float
    used: float


def read_stalls(path: Path) -> list[Stall]:
    rows = (line.split() for line in path.read_text().splitlines())
    return [Stall(*map(float, row)) for row in rows if len(row) == 3]


def measure(options: argparse.Namespace) -> lib.Outcome:
    stalls = lib.BUILD / "stalls"
    server = lib.twinwire(app="bench.app:hub")
    server = dataclasses.replace(server, env=server.env | {"BENCH_STALLS": str(stalls)})
    with lib.serving(server) as process, Probe(process.port, lib.CLIENT_CORE) as probe:
        outcome = lib.load(
            process,
            wire=options.wire,
            target=lib.target(options.wire, ["bench"]),
            clients=options.clients,
            rate=options.rate,
            seconds=1 + options.events / options.rate + options.after,
            storm_at=1,
            storm_away=options.events / options.rate,
            cap=options.events / options.rate + options.after + 30,
        )
    storm = outcome["storm"]
    dropped, back = storm["dropped_at"] / 1e6, storm["back_at"] / 1e6
    live = back + storm["live_ms"]["max"] / 1e3
    for name, begin, end in (("drop", dropped, back), ("return", back, live)):
        trips = probe.between(begin, end) or [0.0]
        storm[f"{name}_trip_ms"] = {
            "p50": lib.median(trips),
            "p99": trips[int(len(trips) * 0.99)],
            "max": trips[-1],
        }
        found = [stall for stall in read_stalls(stalls) if begin <= stall.at <= end]
        storm[f"{name}_stall_ms"] = max((stall.late for stall in found), default=0.0)
        storm[f"{name}_own_stall_ms"] = max(
            (min(stall.late, stall.used) for stall in found), default=0.0
        )
    print(
        f"{storm['returned']:,} of {storm['dropped']:,} back,"
        f" {storm['missed']:,} events later, in {storm['live_ms']['max'] / 1e3:.2f} s;"
        f" loop held {storm['drop_stall_ms']:.0f} ms at the drop, {storm['return_stall_ms']:.0f} ms"
        f" at the return ({storm['drop_own_stall_ms']:.0f} and {storm['return_own_stall_ms']:.0f}"
        f" ms by itself); commands up to {storm['drop_trip_ms']['max']:.0f} and"
        f" {storm['return_trip_ms']['max']:.0f} ms",
        flush=True,
    )
    return outcome


HEADER = (
    "events missed",
    "back in s, half",
    "all",
    "loop held ms, drop",
    "by itself",
    "return",
    "by itself",
    "command ms, drop",
    "return p50",
    "p99",
    "max",
    "others' cores",
    "faults",
)


def tabulate(options: argparse.Namespace, runs: Sequence[lib.Run]) -> str:
    outcomes = [run["outcome"] for run in runs]
    storms = [outcome["storm"] for outcome in outcomes]
    row = [
        lib.spread([s["missed"] for s in storms], "{:,.0f}"),
        lib.spread([s["live_ms"]["p50"] / 1e3 for s in storms], "{:.2f}"),
        lib.spread([s["live_ms"]["max"] / 1e3 for s in storms], "{:.2f}"),
        lib.spread([s["drop_stall_ms"] for s in storms], "{:.0f}"),
        lib.spread([s["drop_own_stall_ms"] for s in storms], "{:.0f}"),
        lib.spread([s["return_stall_ms"] for s in storms], "{:.0f}"),
        lib.spread([s["return_own_stall_ms"] for s in storms], "{:.0f}"),
        lib.spread([s["drop_trip_ms"]["max"] for s in storms], "{:.0f}"),
        lib.spread([s["return_trip_ms"]["p50"] for s in storms], "{:.1f}"),
        lib.spread([s["return_trip_ms"]["p99"] for s in storms], "{:.0f}"),
        lib.spread([s["return_trip_ms"]["max"] for s in storms], "{:.0f}"),
        lib.spread([o["others"] for o in outcomes]),
        lib.describe_faults(outcomes),
    ]
    load = f"{options.clients:,} {options.wire} clients, {options.rate:,.0f} events/s"
    return lib.table([load, *HEADER], [["", *row]])


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench storm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--wire", choices=("sse", "ws"), default="sse")
    parser.add_argument("--rate", type=float, default=200, help="events a second")
    parser.add_argument("--events", type=int, default=1000, help="published while they are away")
    parser.add_argument("--after", type=float, default=6, help="seconds of publishing afterwards")
    parser.add_argument("--reps", type=int, default=3, help="repetitions")
    options = parser.parse_args(argv)
    lib.raise_file_limit()
    runs: list[lib.Run] = [
        {"repetition": repetition, "outcome": measure(options)}
        for repetition in range(options.reps)
    ]
    lib.save("storm", options, runs, tabulate(options, runs))
    back = all(r["outcome"]["storm"]["returned"] == r["outcome"]["clients"] for r in runs)
    return int(not back or any(lib.faults(run["outcome"]) for run in runs))
