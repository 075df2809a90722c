"""Mercure itself, where MERCURE names its program, the Caddy with the hub: nothing is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench import lib
from bench.peers import support

_KEY = "a key that keeps nobody out: it is here for all to read"

_CONFIGURATION = """\
{{
    admin off
    auto_https off
    log {{
        level ERROR
    }}
}}
http://127.0.0.1:{port} {{
    mercure {{
        transport local
        publisher_jwt "{key}"
        subscriber_jwt "{key}"
        anonymous
        heartbeat 0
        write_timeout 0
    }}
}}
"""


_TOKEN = support.token({"mercure": {"publish": ["*"]}}, _KEY)

PUBLISH = (
    *("--publish-format", "form"),
    *("--publish-target", "/.well-known/mercure"),
    *("--publish-headers", f"Authorization: Bearer {_TOKEN}\r\n"),
)


def program() -> str:
    return support.program("mercure", "MERCURE")


def missing() -> str:
    return "" if program() else "MERCURE does not name the path of mercure"


def target(wire: str, channels: Sequence[str]) -> str:
    topics = "&".join(f"topic={channel}" for channel in channels)
    return f"/.well-known/mercure?{topics}&{support.query(channels)}"


def main(port: int) -> None:
    home = lib.BUILD / "mercure"
    home.mkdir(parents=True, exist_ok=True)
    file = home / "Caddyfile"
    file.write_text(_CONFIGURATION.format(port=port, key=_KEY))
    os.execv(program(), ["mercure", "run", "--config", str(file), "--adapter", "caddyfile"])
