"""`python -m bench NAME [options]`: one measurement each."""

import sys
from collections.abc import Callable, Sequence

from bench import commands, fanout, lib, slow_consumers, storm

SCENARIOS: dict[str, Callable[[Sequence[str]], int]] = {
    "fanout": fanout.main,
    "commands": commands.main,
    "slow_consumers": slow_consumers.main,
    "storm": storm.main,
    "check": lib.check_main,
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in SCENARIOS:
        print("usage: python -m bench NAME [options]", file=sys.stderr)
        print(f"names: {', '.join(SCENARIOS)}; NAME --help tells its options", file=sys.stderr)
        return 2
    try:
        return SCENARIOS[sys.argv[1]](sys.argv[2:])
    except lib.BenchError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
