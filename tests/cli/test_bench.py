"""`twinwire bench compare`: what it prints and writes, and what a user can do wrong."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.cli.commands import ended, run, running, spawn
from tests.servers import Server

SMALL = ("--clients", "5", "--rate", "50", "--seconds", "0.2", "--rounds", "1")


@pytest.mark.timeout(120)  # proxies hold for seconds
def test_a_table_the_words_and_a_page(server: Server, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    done = run(
        "bench", "compare", "--url", server.url, "--api-key", "secret", "--channel", "open.compare",
        "--html", str(page), "--json", str(figures), *SMALL,
    )  # fmt: skip
    assert done.code == 0
    assert done.err == "twinwire: With fewer than 5 rounds a difference may be luck.\n"
    assert "Bytes per event" in done.out
    assert "CPU in batches, memory per client: not visible from here" in done.out
    assert "A trading terminal that sends orders\n" in done.out
    assert done.out.endswith(f"{page}\n{figures}\n")
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(figures.read_text())["values"]["bytes_event"]["sse"]


def test_a_wrong_key_is_said_to_be(server: Server, tmp_path: Path) -> None:
    arguments = ["--url", server.url, "--html", str(tmp_path / "page.html")]
    done = spawn("bench", "compare", *arguments, TWINWIRE_API_KEY="wrong")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("twinwire: the server refuses: unauthorized")
    assert done.err.count("\n") == 1


def test_a_channel_that_may_not_be_read_is_said_to_be(server: Server, tmp_path: Path) -> None:
    arguments = ["--url", server.url, "--html", str(tmp_path / "page.html"), "--channel", "shut"]
    done = spawn("bench", "compare", *arguments, TWINWIRE_API_KEY="secret")
    assert done.code == 2
    assert done.err == "twinwire: the server refuses: permission denied: shut (403)\n"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_its_server(signum: int, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with running("bench", "compare", "--html", str(page)) as process:
        deadline = time.monotonic() + 20
        while not (servers := children(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        done = ended(process, signum)
    assert (done.code, done.out) == (130, "")
    assert done.err == "twinwire: stopped: nothing was written\n"
    assert not any(Path(f"/proc/{server}").exists() for server in servers)
    assert not page.exists()


def test_a_deployment_that_goes_away_is_said_to(tmp_path: Path) -> None:
    with Server(exit_codes=[-signal.SIGKILL]) as server:
        arguments = ["--url", server.url, "--html", str(tmp_path / "page.html")]
        with running("bench", "compare", *arguments) as process:
            deadline = time.monotonic() + 20
            while not connected(server.port):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            server.kill()
            done = ended(process)
    assert done.code in (1, 2)  # it may not have begun
    assert done.err.startswith(f"twinwire: no connection to {server.url}: ")
    assert done.err.count("\n") == 1


def connected(port: int) -> bool:
    """Whether anybody is connected to the port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)
