"""Commands: round trips of WebSocket clients, alone and while a fan-out keeps the server busy.

Each client calls `echo` at fixed times, spread evenly over all of them; a call that had to wait for
the one before it counts from when it was due. The load client serves the callers before its
streams: what is measured is the server.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

from bench import fanout, lib

QUANTILES = ("p50", "p90", "p99", "max")


def measure(options: argparse.Namespace, busy: bool) -> lib.Outcome:
    with lib.serving(lib.twinwire(app="bench.app:hub")) as process:
        outcome = lib.load(
            process,
            wire=options.wire,
            target=lib.target(options.wire, ["bench"]),
            clients=options.clients if busy else 0,
            rate=options.rate if busy else 0,
            seconds=options.seconds,
            padding=options.padding,
            rpc_clients=options.callers,
            rpc_rate=options.calls,
            rpc_target=lib.ws_target([]),
            cap=options.seconds + 15,
        )
    print(
        f"{'during the fan-out' if busy else 'alone'}: {outcome['rpc_ms']['count']} calls,"
        f" p50 {outcome['rpc_ms']['p50']:.2f} ms, p99 {outcome['rpc_ms']['p99']:.2f} ms,"
        f" {outcome['per_second'] / 1e6:.2f} million deliveries/s",
        flush=True,
    )
    return outcome


def tabulate(options: argparse.Namespace, runs: Sequence[lib.Run]) -> str:
    rows = []
    for busy in (False, True):
        outcomes = [run["outcome"] for run in runs if run["busy"] == busy]
        rate = lib.spread([o["per_second"] / 1e6 for o in outcomes], "{:.2f}")
        trips = [lib.spread([o["rpc_ms"][q] for o in outcomes], "{:.2f}") for q in QUANTILES]
        errors = sum(o["rpc_errors"] for o in outcomes)
        when = f"during {rate} million deliveries/s" if busy else "alone"
        others = lib.spread([o["others"] for o in outcomes])
        rows.append([when, *trips, str(errors), others, lib.describe_faults(outcomes)])
    load = f"{options.callers} callers, {options.callers * options.calls:g} calls/s"
    header = [load, *(f"{q} ms" for q in QUANTILES), "errors", "others' cores", "faults of streams"]
    return lib.table(header, rows)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench commands",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fanout.add_load_options(parser)
    parser.add_argument("--callers", type=int, default=100, help="clients that call commands")
    parser.add_argument("--calls", type=float, default=5, help="a second of each; 0: one by one")
    options = parser.parse_args(argv)
    lib.raise_file_limit()
    runs: list[lib.Run] = [
        {"repetition": repetition, "busy": busy, "outcome": measure(options, busy)}
        for repetition, busy in itertools.product(range(options.reps), (False, True))
    ]
    lib.save("commands", options, runs, tabulate(options, runs))
    return int(any(run["outcome"]["rpc_errors"] or lib.faults(run["outcome"]) for run in runs))
