"""permessage-deflate: what clients that offer it get, beside others. See also tests/wires."""

import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import ClientConnection, connect

from tests import ROOT
from tests.plain import TEXT, Api, Socket, socket_to, talk
from tests.servers import Server

OFFER = "permessage-deflate; client_max_window_bits"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(
        "--set", "ws_compression=true", "--set", 'allow_publish=[">"]', cwd=ROOT
    ) as running:
        yield running


@pytest.fixture
def port(server: Server) -> int:
    return server.port


def subscribed(client: ClientConnection, channel: str) -> None:
    client.send(f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"{channel}"}}}}')
    while '"id":2' not in str(client.recv()):
        continue


def published(client: ClientConnection, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        for line in str(client.recv(timeout=20)).split("\n"):
            found.append(json.loads(line)["push"]["pub"]["data"])
    return found


def test_a_client_that_offers_it_gets_every_event_with_and_without_context_takeover(
    port: int,
) -> None:
    events = [{"bid": 1.1 + n / 1e5, "text": "grün" * (n % 50)} for n in range(500)]
    with (
        connect(f"ws://127.0.0.1:{port}/ws") as usual,
        connect(
            f"ws://127.0.0.1:{port}/ws",
            compression=None,
            extensions=[ClientPerMessageDeflateFactory(client_no_context_takeover=True)],
        ) as modest,
        connect(f"ws://127.0.0.1:{port}/ws", compression=None) as plain,
        Api(port) as api,
    ):
        clients = (usual, modest, plain)
        for client in clients:
            subscribed(client, "ticks")
        assert [len(client.protocol.extensions) for client in clients] == [1, 1, 0]
        for at in range(0, 500, 50):
            api.publish_all([("ticks", event) for event in events[at : at + 50]])
        for client in clients:
            assert published(client, 500) == events


def test_what_is_agreed_on_is_a_message_by_itself_in_both_directions(port: int) -> None:
    with socket_to(port, sec_websocket_extensions=OFFER) as socket:
        agreed = socket.response.headers["sec-websocket-extensions"]
    assert {part.strip() for part in agreed.split(";")} == {
        "permessage-deflate", "server_no_context_takeover", "client_no_context_takeover",
    }  # fmt: skip


@pytest.mark.parametrize("offer", ["permessage-deflate; server_max_window_bits=10", "x-other"])
def test_an_offer_that_cannot_be_kept_is_declined_and_the_conversation_goes_on(
    port: int, offer: str
) -> None:
    with talk(port, sec_websocket_extensions=offer) as talking:
        assert "sec-websocket-extensions" not in talking.socket.response.headers
        assert "subscribe" in talking.ask(subscribe={"channel": "a"})


def test_commands_may_come_compressed_and_a_bomb_is_refused(port: int) -> None:
    def packed(text: bytes) -> bytes:
        deflate = zlib.compressobj(wbits=-15)
        return (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]

    with socket_to(port, sec_websocket_extensions=OFFER) as socket:
        socket.send(TEXT, packed(b'{"id":1,"connect":{}}'), rsv=4)
        assert b'"connect"' in socket.read().payload
        socket.send(TEXT, packed(b" " * 10_000_000), rsv=4)
        assert socket.closed().code == 1009


def test_without_the_setting_nothing_is_agreed_on() -> None:
    with (
        Server(cwd=ROOT) as server,
        socket_to(server.port, sec_websocket_extensions=OFFER) as socket,
    ):
        assert isinstance(socket, Socket)
        assert "sec-websocket-extensions" not in socket.response.headers
