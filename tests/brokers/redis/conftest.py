"""Which servers the tests run on."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.brokers.redis.servers import AOF, Store, redis, valkey

Start = Callable[..., Store]


@pytest.fixture(scope="session", params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> str:
    """The server's program: each test that asks for it runs on both."""
    found = valkey() if request.param == "valkey" else redis()
    if found is None:
        pytest.skip("no redis-server found (Debian and Ubuntu: apt-get install redis-server)")
    return found


@pytest.fixture(scope="session")
def shared(binary: str) -> Iterator[Store]:
    """A server for all tests that do it no harm. Each has a hub of its own."""
    with Store(binary, "--save", "", "--appendonly", "no") as store:
        yield store


@pytest.fixture
def start(binary: str) -> Iterator[Start]:
    """Starts servers of the test's own, which end with it."""
    with ExitStack() as stack:

        def started(*flags: str) -> Store:
            return stack.enter_context(Store(binary, *(flags or AOF)))

        yield started


@pytest.fixture
def store(start: Start) -> Store:
    """A server of the test's own, with an append-only file."""
    return start()
