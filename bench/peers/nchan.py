"""nchan in nginx: one worker, multiplexed channels, messages in shared memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from bench import lib
from bench.peers import support

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

PUBLISH = ("--publish-format", "raw", "--publish-target", "/publish?to=")

_CONFIGURATION = """\
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
error_log stderr error;
pid {home}/pid;
events {{
    worker_connections {files};
}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000000;
    nchan_shared_memory_size 512M;
    nchan_message_timeout 10s;
    nchan_message_buffer_length 1000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id $arg_to;
        }}
        location = /sse {{
            nchan_subscriber eventsource;
            nchan_channel_id $arg_of;
            nchan_channel_id_split_delimiter ",";
            nchan_subscriber_first_message newest;
        }}
        location = /ws {{
            nchan_subscriber websocket;
            nchan_channel_id $arg_of;
            nchan_channel_id_split_delimiter ",";
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


def missing() -> str:
    if support.program("nginx") and MODULE.exists():
        return ""
    return "nchan is not installed: apt-get install nginx-light libnginx-mod-nchan"


def target(wire: str, channels: Sequence[str]) -> str:
    """`of` is what nchan reads."""
    return f"/{wire}?of={','.join(channels)}&{support.query(channels)}"


def main(port: int) -> None:
    home = lib.BUILD / "nchan"
    home.mkdir(parents=True, exist_ok=True)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    file = home / "nginx.conf"
    file.write_text(_CONFIGURATION.format(module=MODULE, home=home, port=port, files=files))
    os.execv(support.program("nginx"), ["nginx", "-p", str(home), "-c", str(file), "-e", "stderr"])
