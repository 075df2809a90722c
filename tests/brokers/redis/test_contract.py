"""The broker keeps the contract, on Valkey and on Redis."""

import secrets

import pytest

from tests.brokers.redis.servers import Store
from twinwire.brokers import Broker, Config, connect
from twinwire.testing.contract import (
    CutContract,
    LossContract,
    OutageContract,
    PersistentContract,
    SharedContract,
)


class TestContract(PersistentContract, SharedContract):
    @pytest.fixture(autouse=True)
    def place(self, shared: Store) -> None:
        self.url = f"{shared.url}?hub={secrets.token_hex(8)}"

    async def make(self, config: Config) -> Broker:
        return connect(self.url, config)


class TestFaults(CutContract, OutageContract, LossContract):
    @pytest.fixture(autouse=True)
    def place(self, store: Store) -> None:
        self.store = store

    async def make(self, config: Config) -> Broker:
        return connect(self.store.url, config)

    async def cut(self) -> None:
        self.store.cut()

    async def stop(self) -> None:
        self.store.kill()

    async def resume(self) -> None:
        self.store.start()

    async def lose(self) -> None:
        self.store.ask("FLUSHALL")
