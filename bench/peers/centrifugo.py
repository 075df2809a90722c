"""Centrifugo itself, where CENTRIFUGO names its program: no history, no presence, no logs."""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Sequence

from bench import lib
from bench.peers import support

_KEY = "a key that keeps nobody out: it is here for all to read"

PUBLISH = ("--publish-headers", f"X-API-Key: {lib.API_KEY}\r\n")


def program() -> str:
    return support.program("centrifugo", "CENTRIFUGO")


def missing() -> str:
    return "" if program() else "CENTRIFUGO does not name the path of centrifugo"


def target(wire: str, channels: Sequence[str]) -> str:
    """One way over SSE: the server subscribes the client to the channels of its token."""
    if wire == "ws":
        return lib.target(wire, channels).replace("/ws", "/connection/websocket", 1)
    token = support.token({"sub": "bench", "channels": list(channels)}, _KEY)
    connect = urllib.parse.quote(json.dumps({"token": token}))
    return f"/connection/uni_sse?cf_connect={connect}&{support.query(channels)}"


def main(port: int) -> None:
    home = lib.BUILD / "centrifugo"
    home.mkdir(parents=True, exist_ok=True)
    file = home / "config.json"
    configuration = {
        "http_server": {"address": "127.0.0.1", "port": port},
        "log": {"level": "error"},
        "http_api": {"key": lib.API_KEY},
        "client": {
            "insecure": True,
            "queue_max_size": 64 << 20,
            "token": {"hmac_secret_key": _KEY},
        },
        "uni_sse": {"enabled": True},
    }
    file.write_text(json.dumps(configuration, indent=1))
    os.execv(program(), ["centrifugo", "--config", str(file)])
