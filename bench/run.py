"""How a scenario is run: every server and variant in turns, over and over, on one pair of cores.

A run that other programs have disturbed is made again, a few times; what they took in the end is in
its figures ("others' cores").
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import figures, lib, servers, watch
from bench.peers import PEERS as THEIRS
from bench.peers import Peer
from bench.scenarios import P99_MS, PEERS, Scenario, Variant

QUIET = 0.15
"""Cores that others may take in a run."""

AGAIN = 2
"""Times that a disturbed run is made again."""

FINE = 1.06
"""Between the highest rate that is carried and one that is not."""

ATTEMPTS = 16
"""Of one search."""

SLACK = 8.0
"""Seconds that events may take to arrive after the last one was published."""

OVERDUE = 2.0
"""The same in a search, where what takes so long is not carried."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One server, wire and variant of a scenario."""

    scenario: Scenario
    server: str
    wire: str
    variant: Variant

    @property
    def peer(self) -> Peer:
        return servers.find(self.server, self.variant.settings, tls=self.variant.tls)

    @property
    def row(self) -> str:
        """As it is called in tables, without the wire."""
        return f"{self.peer.name} {self.variant.name}".strip()


@dataclasses.dataclass
class Row:
    """A case and what came of it, an outcome for each repetition."""

    case: Case
    outcomes: list[lib.Outcome] = dataclasses.field(default_factory=list)
    tried: list[lib.Outcome] = dataclasses.field(default_factory=list)
    """By `rising`: all that the searches tried."""

    missing: str = ""
    """Why there is no outcome."""


Results = list[Row]


def cases(scenario: Scenario) -> Iterator[Case]:
    """All of them, in the order of a turn."""
    names = [
        name for server in scenario.servers for name in (THEIRS if server == PEERS else [server])
    ]
    for wire, name, variant in itertools.product(scenario.wires, names, scenario.variants):
        case = Case(scenario, name, wire, variant)
        if wire in case.peer.wires:
            yield case


def rows(scenario: Scenario) -> Results:
    """One for each case, with nothing in it yet but why it cannot be run."""
    return [Row(case, missing=case.peer.missing()) for case in cases(scenario)]


def run(scenario: Scenario, rows: Results, *, steady: bool = False) -> None:
    """Run it, in turns, into the rows; `steady`: at its rate, not a search for the highest."""
    method = steadily if steady else METHODS[scenario.how]
    for _ in range(scenario.reps):
        for row in rows:
            if not row.missing:
                try:
                    outcome = method(row)
                except lib.BenchError as error:
                    row.missing = str(error)
                else:
                    row.outcomes.append(outcome)
            _say(row)


def _say(row: Row) -> None:
    name = f"{row.case.scenario.name}: {row.case.row} ({row.case.wire})"
    if row.missing:
        print(f"{name}: {row.missing}", flush=True)
        return
    shown = [
        f"{column} {text}"
        for column in row.case.scenario.columns
        if (text := figures.spread(column, row.outcomes[-1:]))
    ]
    print(
        f"{name}: {', '.join(shown)}, faults: {lib.describe_faults(row.outcomes[-1:])}", flush=True
    )


# The load


def targets(case: Case) -> list[str]:
    """A line for each client, the same in every run."""
    scenario = case.scenario
    if scenario.channels == 1:
        return [case.peer.target(case.wire, ["bench"])]
    chance = random.Random(1)
    names = [f"bench.{n}" for n in range(scenario.channels)]
    return [
        case.peer.target(case.wire, chance.sample(names, scenario.each))
        for _ in range(scenario.clients)
    ]


def load(case: Case, process: lib.Process, rate: float, **options: Any) -> lib.Outcome:
    """The scenario's load at this rate; the outcome has the rate, too."""
    scenario = case.scenario
    given: dict[str, Any] = {
        "wire": case.wire,
        "clients": scenario.clients,
        "channels": scenario.channels,
        "rate": rate,
        "seconds": scenario.seconds,
        "cap": scenario.seconds + SLACK,
        **scenario.load,
        **case.variant.load,
        **options,
    }
    outcome = lib.load(process, targets=targets(case), publish=case.peer.publish, **given)
    if given.get("compressed") and not outcome["compressed"]:
        raise lib.BenchError("it does not compress")
    outcome["rate"] = given["rate"]
    return outcome


def undisturbed(measure: Callable[[], lib.Outcome]) -> lib.Outcome:
    for _ in range(AGAIN):
        outcome = measure()
        if outcome["others"] <= QUIET:
            return outcome
    return measure()


# The methods: each makes one outcome


def steadily(row: Row) -> lib.Outcome:
    """At the scenario's rate."""
    case = row.case

    def measure() -> lib.Outcome:
        with case.peer.serve() as process:
            return load(case, process, case.scenario.rate)

    return undisturbed(measure)


def rising(row: Row) -> lib.Outcome:
    """At the highest rate that is carried; one life of the server for all that is tried."""
    case, scenario = row.case, row.case.scenario
    best: lib.Outcome = {}

    def carried(rate: float) -> bool:
        nonlocal best
        for _ in range(1 + AGAIN):
            try:
                outcome = load(case, process, rate, cap=scenario.seconds + OVERDUE)
            except lib.BenchError as error:
                print(f"  at {rate:,.0f} events/s: {error}", flush=True)
                return False
            good = outcome["latency_ms"]["p99"] <= P99_MS and not lib.faults(outcome)
            row.tried.append(outcome | {"carried": good})
            if good:
                best = outcome
            if good or outcome["others"] <= QUIET:
                break
        return good

    known = row.outcomes[-1]["rate"] if row.outcomes else 0
    start = scenario.starts.get(case.server.partition("@")[0], scenario.rate)
    with case.peer.serve() as process:
        highest(carried, known or start)
    if not best:
        raise lib.BenchError("no rate is carried")
    return best


def highest(carried: Callable[[float], bool], start: float) -> None:
    """Ask `carried` for rates from `start` on, until the highest that it is true of is known.

    Steps grow until there is a rate that is carried and one that is not. Then the way between them
    is halved until they are close, and then the lower one has to be carried again.
    """
    attempts = iter(range(ATTEMPTS))

    def attempt(rate: float) -> bool:
        return next(attempts, None) is not None and carried(rate)

    low, high, rate, step = 0.0, math.inf, start, 1.12
    while not low or high == math.inf:
        if rate < 1:
            return
        if attempt(rate):
            low, rate = rate, rate * step
        else:
            high, rate = rate, rate / step
        step = min(step**1.7, 2.0)
    while high / low > FINE:
        middle = math.sqrt(low * high)
        if attempt(middle):
            low = middle
        else:
            high = middle
    for _ in attempts:
        if carried(low):
            return
        low /= FINE


def commands(row: Row) -> lib.Outcome:
    """At half of the highest rate that twinwire was found to carry, where that was searched for."""
    case = row.case

    def measure() -> lib.Outcome:
        with case.peer.serve() as process:
            return load(
                case,
                process,
                case.scenario.rate,
                rpc_target=lib.ws_target([]),
                cap=case.scenario.seconds + SLACK,
            )

    return undisturbed(measure)


def idle(row: Row) -> lib.Outcome:
    """All connect and then nothing happens; memory before and after, when it has settled."""
    case = row.case

    def measure() -> lib.Outcome:
        with case.peer.serve() as process:
            before = settled(process)
            after: dict[str, int] = {}
            outcome = load(case, process, 0, meanwhile=lambda: after.update(settled(process)))
        outcome["idle"] = {name: after[name] - before[name] for name in before}
        return outcome

    return undisturbed(measure)


def settled(process: lib.Process) -> dict[str, int]:
    """Bytes that the server and the kernel use, once the server's change no more."""
    seen: list[int] = []
    for _ in range(40):
        seen.append(process.memory())
        if len(seen) > 6 and max(seen[-6:]) - min(seen[-6:]) <= 64 << 10:
            break
        time.sleep(0.5)
    return {"rss": seen[-1], **watch.kernel_memory()}


def storm(row: Row) -> lib.Outcome:
    """All drop and return, with one client that stays and calls commands."""
    case = row.case
    stalls = lib.BUILD / "stalls"

    def measure() -> lib.Outcome:
        os.environ["BENCH_STALLS"] = str(stalls)
        try:
            with case.peer.serve() as process, watch.Probe(process) as probe:
                outcome = load(case, process, case.scenario.rate)
        finally:
            del os.environ["BENCH_STALLS"]
        probe.tell(outcome)
        watch.tell_stalls(stalls, outcome)
        if outcome["storm"]["returned"] < outcome["storm"]["dropped"]:
            raise lib.BenchError("{returned} of {dropped} came back".format(**outcome["storm"]))
        return outcome

    return undisturbed(measure)


def stalled(row: Row) -> lib.Outcome:
    """At the scenario's rate, with an eye on memory."""
    case = row.case

    def measure() -> lib.Outcome:
        with case.peer.serve() as process, watch.Memory(process) as memory:
            outcome = load(case, process, case.scenario.rate)
        memory.tell(outcome)
        return outcome

    return undisturbed(measure)


METHODS: dict[str, Callable[[Row], lib.Outcome]] = {
    "rising": rising,
    "steady": steadily,
    "commands": commands,
    "idle": idle,
    "storm": storm,
    "stalled": stalled,
}
