"""`twinwire tail --verify`."""

import pytest

from tests.cli.commands import Done, run
from tests.servers import Server
from twinwire.client.ledger import Ledger

both_wires = pytest.mark.parametrize("wire", ["sse", "ws"])
KEY = ("--api-key", "secret")


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own on the server that the tests share."""
    return "open." + "".join(c if c.isalnum() else "-" for c in request.node.name)


def publish(server: Server, channel: str, *data: str) -> None:
    for number, value in enumerate(data):
        done = run("publish", channel, value, "--key", f"k{number % 2}", "--url", server.url, *KEY)
        assert done.code == 0


def verified(server: Server, *arguments: str) -> Done:
    return run("tail", *arguments, "--verify", "--url", server.url, *KEY)


@both_wires
@pytest.mark.parametrize("mode", ["every", "latest"])
def test_what_adds_up_is_said_to(server: Server, channel: str, wire: str, mode: str) -> None:
    data = ["1", '{"a" : [1.50, "é"]}', "text", '"\\u00e9"', "null", "1e3"]
    publish(server, channel, *data)
    count = {"every": "6", "latest": "2"}[mode]
    since = {"every": ["--since", "earliest"], "latest": []}[mode]
    done = verified(server, channel, "--wire", wire, "--mode", mode, "--count", count, *since)
    assert done.code == 0, done.err
    assert f"adds up: {count} events published, {count} received" in done.err


def test_a_pattern_is_verified_in_all_its_channels(server: Server, channel: str) -> None:
    publish(server, f"{channel}.a", "1", "2")
    publish(server, f"{channel}.b", "3")
    done = verified(server, f"{channel}.*", "--since", "earliest", "--count", "3")
    assert (done.code, "adds up: 3 events" in done.err) == (0, True)


def test_what_is_missing_makes_it_fail(
    server: Server, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, channel, "1", "2", "3")
    add = Ledger.add
    monkeypatch.setattr(
        Ledger, "add", lambda self, item: None if item.json() == 2 else add(self, item)
    )
    done = verified(server, channel, "--since", "earliest", "--count", "3")
    assert done.code == 1
    assert "does not add up (1 faults)" in done.err
    assert f"on {channel} (key k1) is missing" in done.err


def test_without_the_key_nothing_can_be_said(server: Server, channel: str) -> None:
    publish(server, channel, "1")
    arguments = ["--since", "earliest", "--count", "1", "--verify", "--url", server.url]
    done = run("tail", channel, *arguments)
    assert done.code == 2
    assert "unauthorized" in done.err
