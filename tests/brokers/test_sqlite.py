"""The SQLite broker: the contract, its file, what it outlives, and what it says of it."""

from pathlib import Path

import pytest

from twinwire.brokers import Broker, Config
from twinwire.brokers.sqlite import SqliteBroker
from twinwire.testing.contract import PersistentContract


class TestContract(PersistentContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.db"

    async def make(self, config: Config) -> Broker:
        return SqliteBroker(self.path, config)
