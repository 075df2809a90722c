"""What a node makes of the log that it finds on a server."""

import pytest

from twinwire.brokers.redis.identity import Found, Noted, Outcome, Server, judge, least_epoch
from twinwire.core.event import Position

HEAD = Position(1000, 50)
NOTED = Noted(1000, "one")
SAME = Server("r1", "one", "", primary=True, appends=True)
RESTARTED = Server("r2", "two", "", primary=True, appends=True)
WITHOUT_FILE = RESTARTED._replace(appends=False)
PROMOTED = Server("r3", "three", "one", primary=True, appends=True)

GONE_ON, RESUMED, RENEWED = Outcome.GONE_ON, Outcome.RESUMED, Outcome.RENEWED


@pytest.mark.parametrize(
    ("server", "noted", "head", "known", "outcome"),
    [
        # The server that it was
        (SAME, NOTED, HEAD, None, GONE_ON),
        (SAME, NOTED, HEAD, HEAD, GONE_ON),
        (SAME._replace(appends=False), NOTED, HEAD, HEAD, GONE_ON),
        (SAME._replace(former="zero"), NOTED, HEAD, HEAD, GONE_ON),
        (SAME, NOTED, HEAD, Position(900, 70), GONE_ON),
        (SAME, NOTED, HEAD, Position(1000, 51), RENEWED),
        (SAME, NOTED, HEAD, Position(1001, 0), RENEWED),
        # Started again
        (RESTARTED, NOTED, HEAD, None, RESUMED),
        (RESTARTED, NOTED, HEAD, HEAD, RESUMED),
        (RESTARTED, NOTED, HEAD, Position(1000, 51), RENEWED),
        (RESTARTED, NOTED, HEAD, Position(1001, 0), RENEWED),
        (WITHOUT_FILE, NOTED, HEAD, None, RENEWED),
        (WITHOUT_FILE, NOTED, HEAD, HEAD, RENEWED),
        (RESTARTED._replace(former="one"), NOTED, HEAD, HEAD, RENEWED),
        # Another one
        (PROMOTED, NOTED, HEAD, None, RENEWED),
        (PROMOTED, NOTED, HEAD, HEAD, RENEWED),
        # Nothing there, or nothing of ours
        (SAME, None, None, None, RENEWED),
        (SAME, None, None, HEAD, RENEWED),
        (SAME, NOTED, None, HEAD, RENEWED),
        (SAME, None, HEAD, HEAD, RENEWED),
        (SAME, NOTED, Position(1001, 0), HEAD, RENEWED),
        (SAME, NOTED, Position(999, 60), None, RENEWED),
    ],
)
def test_what_has_become_of_the_log(
    server: Server,
    noted: Noted | None,
    head: Position | None,
    known: Position | None,
    outcome: Outcome,
) -> None:
    verdict = judge(Found(server, noted, head), known)
    assert verdict.outcome is outcome
    assert bool(verdict.why) == (outcome is not GONE_ON)


def test_the_next_epoch_is_later_than_all_that_is_known_of() -> None:
    assert least_epoch(Found(SAME, None, None), None) == 0
    assert least_epoch(Found(SAME, NOTED, None), None) == 1001
    assert least_epoch(Found(SAME, NOTED, Position(2000, 0)), None) == 2001
    assert least_epoch(Found(SAME, NOTED, HEAD), Position(3000, 1)) == 3001


def test_what_a_server_says_of_itself() -> None:
    info = {
        "run_id": "r", "role": "master", "master_replid": "one", "aof_enabled": "1",
        "master_replid2": "0" * 40,
    }  # fmt: skip
    assert Server.of(info) == Server("r", "one", "", primary=True, appends=True)
    assert Server.of({**info, "master_replid2": "zero0"}).former == "zero0"
    assert not Server.of({**info, "role": "slave"}).primary
    assert not Server.of({**info, "aof_enabled": "0"}).appends
