"""Backends that tests of several files share."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.brokers.nats.server import NatsServer

_hubs = count()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server for tests that leave it as it is."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    """The URL of a hub of this test's own."""
    return f"{nats_server.url}?hub=test{next(_hubs)}"
