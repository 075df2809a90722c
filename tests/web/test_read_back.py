"""Clients of both wires that come back to a position older than the server's memory."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.plain import Api, Talk, talk
from tests.servers import Server
from twinwire.client import Event, Gap, subscribe

COUNT = 200
MEMORY = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("log") / "log.db"
    with Server("--broker", f"sqlite:///{place}", "--set", f"log_events={MEMORY}") as running:
        yield running


@pytest.fixture(scope="module")
def positions(server: Server) -> list[str]:
    with Api(server.port) as api:
        return api.publish_all([("a", n) for n in range(COUNT)])


@pytest.mark.parametrize("wire", ["sse", "ws"])
async def test_they_get_everything_and_no_gap(
    server: Server, positions: list[str], wire: str
) -> None:
    found = []
    async with (
        asyncio.timeout(10),
        subscribe(server.url, ["a"], wire=wire, since=positions[0]) as items,
    ):
        async for item in items:
            assert not isinstance(item, Gap)
            if isinstance(item, Event):
                found.append(str(item.position))
                if len(found) == COUNT - 1:
                    break
    assert found == positions[1:]


def again(talk: Talk, position: str) -> None:
    epoch, _, offset = position.partition("-")
    answer = talk.ask(
        subscribe={"channel": "a", "recover": True, "epoch": epoch, "offset": int(offset)}
    )
    assert answer["subscribe"]["recovered"]
    talk.ask(unsubscribe={"channel": "a"})


def test_one_who_does_so_over_and_over_leaves_nothing(server: Server, positions: list[str]) -> None:
    with talk(server.port) as client, Api(server.port) as api:
        for _ in range(30):
            again(client, positions[0])
        assert api.result("info")["nodes"][0]["num_clients"] <= 2
