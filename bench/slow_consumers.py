"""Slow consumers: clients that read nothing, beside others that read all.

Interleaved in one run: the healthy clients alone, and with the stalled ones beside them. What the
healthy ones get, and how late, should be the same; and a stalled client should cost the server its
connection and a bounded buffer, in its own memory and in the kernel's.
"""

from __future__ import annotations

import argparse
import itertools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from bench import lib

RATE_KEPT = 0.95
P99_KEPT = 1.2
MEMORY_KEPT = 64 * 1024

_PERIOD = 0.25


class Sampler:
    """The most memory that the server, and the kernel for its connections, use while it runs."""

    def __init__(self, process: lib.Process) -> None:
        self.begin = process.memory()
        self.rss = self.begin
        self.kernel = 0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(_PERIOD):
            self.rss = max(self.rss, self._process.memory())
            self.kernel = max(self.kernel, kernel_memory(self._process.port))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(10)


def kernel_memory(port: int) -> int:
    """Bytes that the kernel has queued on the server's connections, to be sent or not acknowledged;
    read from /proc, which tells no overhead."""
    local = f":{port:04X}"
    total = 0
    try:
        with open("/proc/net/tcp") as lines:
            for line in lines:
                fields = line.split()
                if fields[1].endswith(local) and fields[3] == "01":
                    total += int(fields[4].partition(":")[0], 16)
    except OSError:
        return 0
    return total


def measure(options: argparse.Namespace, stalled: int) -> lib.Outcome:
    server = lib.twinwire(log_events=options.log_events, write_timeout=options.seconds + 60)
    with lib.serving(server) as process, Sampler(process) as sampler:
        outcome = lib.load(
            process,
            wire=options.wire,
            target=lib.target(options.wire, ["bench"]),
            clients=options.clients - options.stalled + stalled,
            stalled=stalled,
            rate=options.rate,
            seconds=options.seconds,
            cap=options.seconds + 15,
        )
    outcome["memory"] = {
        "begin": sampler.begin,
        "rss": sampler.rss,
        "kernel": sampler.kernel,
    }
    print(
        f"{stalled} stalled: {outcome['per_second'] / 1e6:.2f} million/s,"
        f" p99 {outcome['latency_ms']['p99']:.0f} ms, server {sampler.rss >> 20} MiB,"
        f" kernel {sampler.kernel >> 20} MiB, stalled ones closed {outcome['stalled_closed']}",
        flush=True,
    )
    return outcome


def verdict(options: argparse.Namespace, runs: Sequence[lib.Run]) -> dict[str, float]:
    """Medians: deliveries and p99 with the stalled ones as a share of those without, and bytes a
    stalled client."""
    groups = {
        stalled: [run["outcome"] for run in runs if bool(run["stalled"]) == stalled]
        for stalled in (False, True)
    }

    def ratio(name: str) -> float:
        def value(o: lib.Outcome) -> float:
            return float(o["latency_ms"]["p99"] if name == "p99" else o[name])

        pairs = zip(groups[True], groups[False], strict=True)
        return float(lib.median(value(some) / value(none) for some, none in pairs))

    def memory(name: str) -> float:
        some, none = (lib.median(o["memory"][name] for o in groups[s]) for s in (True, False))
        return float(some - none) / float(options.stalled)

    return {
        "rate": ratio("per_second"),
        "p99": ratio("p99"),
        "rss": memory("rss"),
        "kernel": memory("kernel"),
    }


def tabulate(options: argparse.Namespace, runs: Sequence[lib.Run]) -> str:
    rows = []
    for stalled in (0, options.stalled):
        outcomes = [run["outcome"] for run in runs if run["stalled"] == stalled]
        rows.append(
            [
                f"{stalled} stalled",
                lib.spread([o["per_second"] / 1e6 for o in outcomes], "{:.2f}"),
                lib.spread([o["latency_ms"]["p50"] for o in outcomes], "{:.0f}"),
                lib.spread([o["latency_ms"]["p99"] for o in outcomes], "{:.0f}"),
                lib.spread([o["memory"]["rss"] / 2**20 for o in outcomes]),
                lib.spread([o["memory"]["kernel"] / 2**20 for o in outcomes]),
                lib.spread([o["others"] for o in outcomes]),
                lib.describe_faults(outcomes),
            ]
        )
    found = verdict(options, runs)
    load = f"{options.clients - options.stalled:,} {options.wire} clients, {options.rate:,.0f}/s"
    text = lib.table(
        [
            load,
            "million/s",
            "p50 ms",
            "p99 ms",
            "server MiB",
            "kernel MiB",
            "others' cores",
            "faults",
        ],
        rows,
    )
    return (
        f"{text}\n\nWith {options.stalled} stalled beside them, medians of the pairs: deliveries"
        f" × {found['rate']:.3f} (≥ {RATE_KEPT}), p99 × {found['p99']:.2f}"
        f" (≤ {P99_KEPT}); for each stalled one {found['rss'] / 1024:.1f} KiB in the server and"
        f" {found['kernel'] / 1024:.1f} KiB queued in the kernel (together ≤ {MEMORY_KEPT >> 10})."
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench slow_consumers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--stalled", type=int, default=500, help="of them, that read nothing")
    parser.add_argument("--wire", choices=("sse", "ws"), default="sse")
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    parser.add_argument("--seconds", type=float, default=6, help="of publishing")
    parser.add_argument("--log-events", type=int, default=2000, help="that the server keeps")
    parser.add_argument("--reps", type=int, default=5, help="repetitions, in turns")
    options = parser.parse_args(argv)
    lib.raise_file_limit()
    runs: list[lib.Run] = [
        {"repetition": n, "stalled": stalled, "outcome": measure(options, stalled)}
        for n, stalled in itertools.product(range(options.reps), (0, options.stalled))
    ]
    lib.save("slow_consumers", options, runs, tabulate(options, runs))
    found = verdict(options, runs)
    good = (
        found["rate"] >= RATE_KEPT
        and found["p99"] <= P99_KEPT
        and found["rss"] + found["kernel"] <= MEMORY_KEPT
        and not any(lib.faults(run["outcome"]) for run in runs)
    )
    return 0 if good else 1
