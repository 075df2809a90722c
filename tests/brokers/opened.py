"""A broker that is open for a while."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twinwire.brokers import Broker
from twinwire.testing.contract import Node, Strict


@asynccontextmanager
async def opened_as_node(broker: Broker) -> AsyncIterator[Node]:
    """`broker` as a node, which must have kept the rules at the end."""
    heard = Strict()
    await broker.open(heard)
    try:
        yield Node(broker, heard)
    finally:
        await broker.close()
    assert heard.faults == []
