"""What nodes need of a broker that they share: that what one tells is heard by all.

To point these at a broker of another kind, add its name to `new_hub` and what makes hubs over it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.brokers.redis.servers import Store, valkey
from tests.test_nodes import QUICK, Connection, there
from tests.together import Together
from tests.waiting import until
from twinwire import Hub

NewHub = Callable[..., Hub]


@pytest.fixture(params=["together", "redis", "nats"])
def new_hub(request: pytest.FixtureRequest) -> Iterator[NewHub]:
    """Makes nodes of one hub, with the settings that it is given."""
    if request.param == "together":
        yield Together().hub
    elif request.param == "nats":
        yield partial(Hub, request.getfixturevalue("nats_url"))
    else:
        with Store(valkey()) as store:
            yield partial(Hub, store.url)


@asynccontextmanager
async def two_nodes(new_hub: NewHub, **settings: Any) -> AsyncIterator[tuple[Hub, Hub]]:
    one, two = (new_hub(**{**QUICK, **settings}) for _ in range(2))
    async with one, two:
        await until(lambda: len(one.nodes.info()) == len(two.nodes.info()) == 2)
        yield one, two


async def test_members_of_either_node_are_known_at_both(new_hub: NewHub) -> None:
    async with two_nodes(new_hub) as (one, two):
        here, elsewhere = Connection(one, "c", "ada"), Connection(two, "d", "bob")
        here.join("rooms.a")
        elsewhere.join("rooms.a")
        await until(lambda: there(one) == there(two) == {"c", "d"})
        await until(lambda: {"+c", "+d"} <= set(here.got))
        one.nodes.gone(here)
        await until(lambda: there(one) == there(two) == {"d"})
        await until(lambda: elsewhere.got[-1] == "-c")


async def test_many_members_are_known_at_a_node_that_begins_later(new_hub: NewHub) -> None:
    async with new_hub(**QUICK) as one:
        for number in range(3000):
            Connection(one, f"client-{number}", "u" * 50).join("rooms.a")
        async with new_hub(**QUICK) as two:
            await until(lambda: two.presence_stats("rooms.a").num_clients == 3000)
            Connection(two, "late").join("rooms.a")
            await until(lambda: one.presence_stats("rooms.a").num_clients == 3001)
        await until(lambda: one.presence_stats("rooms.a").num_clients == 3000)


async def test_an_order_reaches_a_client_at_the_other_node(new_hub: NewHub) -> None:
    async with two_nodes(new_hub) as (one, two):
        ada = Connection(two, "c", "ada")
        await one.unsubscribe("rooms.a", user="ada")
        await one.disconnect(client="c")
        await until(lambda: ada.ended)
        assert ada.orders == ["rooms.a"]


async def test_events_and_notices_do_not_get_into_each_others_way(new_hub: NewHub) -> None:
    async with two_nodes(new_hub) as (one, two):
        events = two.subscribe("a")
        first = asyncio.ensure_future(anext(events))
        await until(lambda: len(two.fanout.feeds) == 1)
        positions = []
        for number in range(50):
            Connection(one, f"c{number}").join("rooms.a")
            positions.append(await one.publish("a", number))
        got = [await first] + [await anext(events) for _ in range(49)]
        assert [event.position for event in got] == positions
        await until(lambda: two.presence_stats("rooms.a").num_clients == 50)
        await events.aclose()
