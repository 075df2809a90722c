"""Fan-out: many clients on one channel, every event at every client.

Interleaved in one run: twinwire; a C server that joins what has arrived and sends it once to each
client (the limit); and a C server that `send()`s every event to every client by itself (as most
servers do). The last cannot keep up with what the others carry: its figure is what it delivered in
the same time.

--rising raises the rate until p99 passes 250 ms or events are missing, and reports the last rate
that was carried.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence

from bench import lib

P99_MS = 250.0
STEP = 1.25


def server_named(name: str) -> lib.Server:
    return lib.twinwire() if name == "twinwire" else lib.floor(name)


def measure(process: lib.Process, options: argparse.Namespace, rate: float) -> lib.Outcome:
    outcome = lib.load(
        process,
        wire=options.wire,
        target=lib.target(options.wire, ["bench"]),
        clients=options.clients,
        rate=rate,
        seconds=options.seconds,
        padding=options.padding,
        cap=options.seconds + (0 if process.server.name == "C, naive" else 15),
    )
    print(
        f"{process.server.name} at {rate:,.0f} events/s: {outcome['per_second'] / 1e6:.2f}"
        f" million/s, p50 {outcome['latency_ms']['p50']:.0f} ms,"
        f" p99 {outcome['latency_ms']['p99']:.0f} ms, faults: {lib.describe_faults([outcome])}",
        flush=True,
    )
    return outcome


def steady(options: argparse.Namespace) -> Iterator[lib.Run]:
    """The same rate for all, in turns."""
    for repetition, name in itertools.product(range(options.reps), options.servers):
        with lib.serving(server_named(name)) as process:
            outcome = measure(process, options, options.rate)
        yield {"server": name, "repetition": repetition, "rate": options.rate, "outcome": outcome}


def rising(options: argparse.Namespace) -> Iterator[lib.Run]:
    """Rates up to the first that is not carried, in turns; a turn is one life of the server."""
    for repetition, name in itertools.product(range(options.reps), options.servers):
        with lib.serving(server_named(name)) as process:
            rate, carried = options.rate, True
            while carried:
                outcome = measure(process, options, rate)
                carried = outcome["latency_ms"]["p99"] <= P99_MS and not lib.faults(outcome)
                yield {
                    "server": name,
                    "repetition": repetition,
                    "rate": rate,
                    "carried": carried,
                    "outcome": outcome,
                }
                rate *= STEP


def last_carried(runs: Sequence[lib.Run]) -> list[lib.Run]:
    """The best run of each turn."""
    best = {(run["server"], run["repetition"]): run for run in runs if run["carried"]}
    return list(best.values())


def figures(outcomes: Sequence[lib.Outcome]) -> list[str]:
    return [
        lib.spread([o["per_second"] / 1e6 for o in outcomes], "{:.2f}"),
        lib.spread([o["latency_ms"]["p50"] for o in outcomes], "{:.0f}"),
        lib.spread([o["latency_ms"]["p99"] for o in outcomes], "{:.0f}"),
        lib.spread([lib.cpu_per_million(o) for o in outcomes], "{:.2f}"),
        lib.spread([o["busy"] for o in outcomes], "{:.2f}"),
        lib.spread([o["others"] for o in outcomes]),
        lib.describe_faults(outcomes),
    ]


HEADER = (
    "million/s",
    "p50 ms",
    "p99 ms",
    "server s/million",
    "client busy",
    "others' cores",
    "faults",
)


def tabulate(options: argparse.Namespace, runs: Sequence[lib.Run]) -> str:
    groups = {name: [r["outcome"] for r in runs if r["server"] == name] for name in options.servers}
    rates = {
        name: lib.median(outcome["per_second"] for outcome in outcomes)
        for name, outcomes in groups.items()
        if outcomes
    }
    ratios = [name for name in ("batch", "naive") if name in rates]
    rows = [
        [
            server_named(name).name,
            *figures(groups[name]),
            *(f"{rates[name] / rates[other]:.2f}" for other in ratios),
        ]
        for name in rates
    ]
    load = f"{options.clients:,} {options.wire} clients, "
    load += "rising rate" if options.rising else f"{options.rate:,.0f} events/s"
    return lib.table([load, *HEADER, *(f"× C, {other}" for other in ratios)], rows)


def add_load_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=2000, help="events a second")
    parser.add_argument("--seconds", type=float, default=8, help="of publishing")
    parser.add_argument("--wire", choices=("sse", "ws"), default="sse")
    parser.add_argument("--padding", type=int, default=0, help="more bytes in each event's data")
    parser.add_argument("--reps", type=int, default=3, help="repetitions, in turns")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench fanout",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_load_options(parser)
    parser.add_argument("--rising", action="store_true", help="find the highest rate")
    parser.add_argument(
        "--servers",
        type=lambda text: text.split(","),
        default=["twinwire", "batch", "naive"],
        help="some of twinwire,batch,naive",
    )
    options = parser.parse_args(argv)
    lib.raise_file_limit()
    if options.rising:
        options.servers = [name for name in options.servers if name != "naive"]  # carries no rate
        runs = list(rising(options))
        lib.save("fanout-rising", options, runs, tabulate(options, last_carried(runs)))
        return 0
    runs = list(steady(options))
    lib.save("fanout", options, runs, tabulate(options, runs))
    return int(any(lib.faults(run["outcome"]) for run in runs if run["server"] != "naive"))
