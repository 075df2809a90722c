"""`python -m bench.peers`: install what can be, say what is missing.

`python -m bench.peers NAME PORT`: write a peer's configuration and become its server.
"""

import sys

from bench import lib
from bench.peers import PEERS, centrifugo, mercure, nchan, pushpin

PROGRAMS = {
    "nchan": nchan.main,
    "pushpin": pushpin.main,
    "centrifugo": centrifugo.main,
    "mercure": mercure.main,
}


def main() -> int:
    if len(sys.argv) == 3:
        PROGRAMS[sys.argv[1]](int(sys.argv[2]))
        return 0
    for name, peer in PEERS.items():
        said = peer.missing()
        if not said:
            try:
                with peer.serve():
                    said = "ready"
            except lib.BenchError as error:
                said = str(error)
        print(f"{name}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
