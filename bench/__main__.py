"""`python -m bench`: the measurements; see README.md."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence

from bench import figures, lib, results, run
from bench.scenarios import FIREHOSE, SCENARIOS, Scenario


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures twinwire beside C servers and other servers, in turns.",
        epilog="Scenarios:\n"
        + "\n".join(f"  {name:15} {scenario.heading}" for name, scenario in SCENARIOS.items())
        + "\n  check           compile everything and let the scanner check itself",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all if none is named")
    made.add_argument("--quick", action="store_true", help="fewer clients, wires and repetitions")
    made.add_argument("--full", action="store_true", help="all scenarios, as they are")
    made.add_argument(
        "--servers",
        type=names,
        help="twinwire, twinwire@PATH (another tree or Python), batch, paced, naive, peers or"
        " their names",
    )
    made.add_argument("--wires", type=names, help="sse, ws or both")
    made.add_argument("--reps", type=int, help="repetitions, in turns")
    made.add_argument("--clients", type=int)
    made.add_argument("--seconds", type=float, help="of publishing")
    made.add_argument("--rate", type=float, help="events a second; of a rising rate the start")
    made.add_argument(
        "--check-every", type=int, metavar="N", help="one of N clients checks what it gets"
    )
    made.add_argument("--steady", action="store_true", help="keep to --rate instead of raising it")
    return made


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios, with what --quick and the other options say. Raises `BenchError`."""
    found = []
    for name in options.scenarios or SCENARIOS:
        if name not in SCENARIOS:
            raise lib.BenchError(f"there is no scenario {name}: {', '.join([*SCENARIOS, 'check'])}")
        scenario = SCENARIOS[name]
        if options.quick:
            scenario = dataclasses.replace(scenario, **scenario.quick)
        given = {
            name: getattr(options, name)
            for name in ("servers", "wires", "reps", "clients", "seconds", "rate")
            if getattr(options, name) is not None
        }
        if "rate" in given:
            given["starts"] = {}
        if options.check_every:
            given["load"] = {**scenario.load, "check_every": options.check_every}
        found.append(dataclasses.replace(scenario, **given))
    return found


def measure(options: argparse.Namespace) -> None:
    scenarios = chosen(options)
    lib.raise_file_limit()
    name = (
        options.scenarios[0] if len(options.scenarios) == 1 else "quick" if options.quick else "all"
    )
    path = results.directory(name)
    half = 0.0
    for scenario in scenarios:
        if scenario.how == "commands" and half and not options.rate:
            scenario = dataclasses.replace(scenario, rate=half)
        rows = run.rows(scenario)
        try:
            run.run(scenario, rows, steady=options.steady)
        finally:
            print(f"\n{results.save(path, scenario, rows)}\n", flush=True)
        if scenario.name == FIREHOSE.name:
            ours = [row for row in rows if row.case.server == "twinwire" and row.outcomes]
            rates = [lib.median(figures.values("events/s", row.outcomes)) for row in ours]
            half = min(rates, default=0) / 2
    print(path)


def main(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    # What has been measured by then is saved.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.scenarios == ["check"]:
            lib.check()
        elif options.scenarios or options.quick or options.full:
            measure(options)
        else:
            parser().print_help()
            return 2
    except lib.BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
