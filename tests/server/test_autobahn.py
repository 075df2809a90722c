"""Autobahn's WebSocket cases against `/echo`, which our own protocol class serves.

Groups 12 and 13 are left out: they are about permessage-deflate, which we decline.
"""

from collections.abc import Iterator

import pytest
from kosoku import FailureError, run_fuzzingclient

from tests import ROOT
from tests.servers import Server

# Group 9 sends messages of 16 MiB.
ENOUGH = 20_000_000


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with Server("--echo", "--set", f"message_max_bytes={ENOUGH}", cwd=ROOT) as server:
        yield f"{server.ws_url}/echo"


@pytest.mark.parametrize(
    ("group", "count"),
    [(1, 16), (2, 11), (3, 7), (4, 10), (5, 20), (6, 145), (7, 37), (9, 54), (10, 1)],
)
async def test_every_case_passes(echo: str, group: int, count: int) -> None:
    try:
        results = await run_fuzzingclient(echo, [f"{group}.*"], concurrency=4)
    except FailureError as error:
        results = error.results
    failed = {r.case_id: (r.description, r.result, r.result_close) for r in results if not r.passed}
    assert not failed
    assert len(results) == count
