"""The table of the servers to compare with; what their libraries do is measured, not tested."""

import asyncio
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from bench.peers import PEERS, Peer, centrifugo, door, mercure, nchan, pushpin, support

BENCH = Path(support.HERE).parent
CHANNELS = ["bench.1", "bench.22", "bench.333"]


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    return PEERS[str(request.param)]


def test_a_target_tells_the_load_client_the_channels(peer: Peer) -> None:
    for wire in peer.wires:
        path, *commands = peer.target(wire, CHANNELS).split("\t")
        assert re.findall(r"channel=([\w.]+)", path) == CHANNELS
        assert path.startswith("/")
        assert not re.search(r"[\s\"]", path)
        assert wire == "ws" or not commands


def test_the_load_client_knows_the_publishing_options(peer: Peer) -> None:
    known = re.findall(r'^    \{"([\w-]+)", ', (BENCH / "options.h").read_text(), re.MULTILINE)
    names = peer.publish[::2]
    assert [name for name in names if name.removeprefix("--") not in known] == []
    assert len(set(names)) == len(names) == len(peer.publish) / 2


def test_a_peer_has_a_name_and_wires(peer: Peer) -> None:
    assert peer.name.strip() == peer.name != ""
    assert set(peer.wires) <= {"sse", "ws"}
    assert peer.wires


@pytest.mark.parametrize("name", sorted(PEERS.keys() - {"nchan", "pushpin"}))
def test_what_is_missing_is_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "program", lambda *names: "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = PEERS[name].missing()
    assert "\n" not in said
    assert re.search("not found|does not name|apt-get install", said)


@pytest.mark.parametrize("module", [nchan, pushpin])
def test_what_debian_has_is_named(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "program", lambda *names: "")
    assert re.fullmatch(r"\w+ is not installed: apt-get install [\w -]+", module.missing())


@pytest.mark.parametrize(("module", "name"), [(centrifugo, "CENTRIFUGO"), (mercure, "MERCURE")])
def test_a_program_is_found_by_the_path_in_the_environment(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "server"
    monkeypatch.setenv(name, str(program))
    assert name in module.missing()
    program.touch(mode=0o755)
    assert module.missing() == ""


def test_pushpins_origin_holds_a_request_on_its_channels() -> None:
    kind, headers, _ = pushpin.hold("get / http/1.1", ["a", "b"])
    assert kind == "text/event-stream"
    assert headers == {"Grip-Hold": "stream", "Grip-Channel": "a, b"}


def test_pushpins_origin_subscribes_a_websocket() -> None:
    head = "post / http/1.1\r\ncontent-type: application/websocket-events"
    _, _, events = pushpin.hold(head, ["a"])
    subscribe = 'c:{"type": "subscribe", "channel": "a"}'
    assert events == f"OPEN\r\nTEXT {len(subscribe):x}\r\n{subscribe}\r\n"


async def test_the_door_takes_requests_that_are_cut_anywhere() -> None:
    published = []
    batch = {"commands": [{"publish": {"channel": c, "data": {"n": 1}}} for c in "ab"]}
    body = json.dumps(batch, separators=(",", ":")).encode()
    sent = 3 * (b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    server = await asyncio.get_running_loop().create_server(
        lambda: door.Door(lambda *event: published.append(event)), "127.0.0.1", 0
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for at in range(0, len(sent), 7):
            writer.write(sent[at : at + 7])
            await asyncio.sleep(0)
        assert await reader.readexactly(3 * len(door.RESPONSE)) == 3 * door.RESPONSE
        writer.close()
        await writer.wait_closed()
    assert published == [("a", b'{"n":1}'), ("b", b'{"n":1}')] * 3


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (support.NODE / "package-lock.json").read_text()
