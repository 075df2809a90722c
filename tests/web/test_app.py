"""The application's paths: what answers where, before and after the hub runs."""

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.plain import ask
from twinwire import Hub


def test_health_and_readiness_are_said(port: int) -> None:
    for path in ("/health", "/ready"):
        response, body = ask(port, path)
        assert (response.status, body) == (200, b"{}")
        assert response.headers["content-type"] == "application/json"
        assert response.headers["cache-control"] == "no-store"


def test_any_other_path_is_not_found(port: int) -> None:
    for path in ("/nothing", "/api", "/api/", "/api/publish/more", "/sse/more"):
        assert ask(port, path)[0].status == 404


def test_a_request_that_is_no_http_is_answered_so(port: int) -> None:
    response, _ = ask(port, "/health", version="9.9")
    assert response.status == 400


class Exchange:
    """One request to an ASGI application, without a server."""

    def __init__(self, type: str, path: str, method: str = "GET") -> None:
        self.scope: Scope = {
            "type": type,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"channel=a",
            "headers": [],
            "http_version": "1.1",
            "scheme": "http" if type == "http" else "ws",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 5),
            "subprotocols": [],
        } | ({"method": method} if type == "http" else {})
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        kind = "websocket.connect" if self.scope["type"] == "websocket" else "http.request"
        return {"type": kind, "body": b"{}", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, app: Any) -> list[Message]:
        receive: Receive = self.receive
        send: Send = self.send
        await app(self.scope, receive, send)
        return self.sent


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/health", "GET", 200),
        ("/ready", "GET", 503),
        ("/sse", "GET", 503),
        ("/api/publish", "POST", 503),
        ("/ws", "GET", 400),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_does_not_run_says_so(path: str, method: str, status: int, when: str) -> None:
    hub = Hub()
    if when == "after":
        async with hub:
            pass
    start, body, *_ = await Exchange("http", path, method).run(hub.app)
    assert start["status"] == status
    if status == 503 and path.startswith("/api"):
        assert "not running" in json.loads(body["body"])["error"]["message"]


async def test_an_event_source_to_what_does_not_run_is_told_to_come_back() -> None:
    # With any status but 200 a browser would give up for good.
    exchange = Exchange("http", "/sse", "GET")
    exchange.scope["headers"] = [(b"accept", b"text/event-stream")]
    start, body, *_ = await exchange.run(Hub().app)
    assert start["status"] == 200
    assert (b"content-type", b"text/event-stream") in start["headers"]
    assert body["body"].startswith(b"retry: ")
    assert b"event: reconnect\n" in body["body"]
    assert not body.get("more_body")


async def test_a_websocket_to_what_does_not_run_is_not_accepted() -> None:
    sent = await Exchange("websocket", "/ws").run(Hub().app)
    assert [message["type"] for message in sent] == ["websocket.close"]
