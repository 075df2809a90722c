"""Pushpin, with the origin it needs: one that holds each request open on the channels asked for.

Pushpin's processes are children of the origin's, which is idle once all clients are there.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from bench.peers import support

PUBLISH = ("--publish-format", "pushpin", "--publish-target", "/publish/", *support.BESIDE)

_CONFIGURATION = """\
[global]
include={{libdir}}/internal.conf
rundir={home}/run
ipc_prefix=pushpin-
port_offset=0

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={home}/log
log_level=1
client_buffer_size=8192
client_maxconn=16000

[proxy]
routesfile={home}/routes
zurl_out_specs=ipc://{home}/run/pushpin-zurl-in
zurl_out_stream_specs=ipc://{home}/run/pushpin-zurl-in-stream
zurl_in_specs=ipc://{home}/run/pushpin-zurl-out
updates_check=off

[handler]
push_in_spec=ipc://{home}/run/push-in
push_in_sub_specs=ipc://{home}/run/push-in-sub
push_in_http_addr=127.0.0.1
push_in_http_port={door}
push_in_http_max_body_size=10000000
command_spec=ipc://{home}/run/command
stats_spec=ipc://{home}/run/stats
message_rate=0
message_hwm=1000000
connection_subscription_max=100
"""


def missing() -> str:
    if support.program("pushpin"):
        return ""
    return "Pushpin is not installed: apt-get install pushpin"


def hold(head: str, channels: Sequence[str]) -> tuple[str, dict[str, str], str]:
    """The origin's answer, type, headers and body: stay on these channels."""
    if "application/websocket-events" not in head:
        headers = {"Grip-Hold": "stream", "Grip-Channel": ", ".join(channels)}
        return "text/event-stream", headers, ": held\n\n"
    events = "OPEN\r\n"
    for channel in channels:
        subscribe = "c:" + json.dumps({"type": "subscribe", "channel": channel})
        events += f"TEXT {len(subscribe):x}\r\n{subscribe}\r\n"
    headers = {"Sec-WebSocket-Extensions": 'grip; message-prefix=""'}
    return "application/websocket-events", headers, events


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if length := re.search(r"\r\ncontent-length: *(\d+)", head, re.IGNORECASE):
                await reader.readexactly(int(length[1]))
            url = urlsplit(head.split(" ", 2)[1])
            kind, headers, body = hold(head.lower(), parse_qs(url.query).get("channel", []))
            lines = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
            text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"HTTP/1.1 200 OK\r\n{text}\r\n{body}".encode())
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _serve(port: int, home: Path) -> None:
    """All of it, until it is told to end."""
    for name in ("run", "log"):
        (home / name).mkdir()
    origin = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=4096)
    behind = origin.sockets[0].getsockname()[1]
    (home / "routes").write_text(f"* 127.0.0.1:{behind},over_http\n")
    file = home / "pushpin.conf"
    file.write_text(_CONFIGURATION.format(home=home, port=port, door=port + support.DOOR))
    pushpin = await asyncio.create_subprocess_exec("pushpin", "--config", str(file))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pushpin.terminate)
    await pushpin.wait()


def main(port: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pushpin-") as home:  # a socket's path has to be short
        asyncio.run(_serve(port, Path(home)))
