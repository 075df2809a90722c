"""The NATS broker: the contract, against a real server."""

from collections.abc import Iterator

import pytest

from tests.brokers.nats.server import NatsServer
from twinwire.brokers import Broker, Config, connect
from twinwire.testing.contract import (
    PersistentContract,
    SharedContract,
)

pytest.importorskip("nats")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server for tests that leave it as it is."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


hubs = iter(range(1_000_000))


class TestContract(SharedContract, PersistentContract):
    # The log is trimmed now and then, behind the appends.
    slack = 2000

    @pytest.fixture(autouse=True)
    def place(self, shared: NatsServer) -> None:
        self.url = f"{shared.url}?hub=test{next(hubs)}"

    async def make(self, config: Config) -> Broker:
        return connect(self.url, config)
