"""`twinwire publish` and `twinwire tail`, against a server and each other."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Done, ended, run, running, spawn
from tests.servers import TWINWIRE, Server, unused_port

KEY = ("--api-key", "secret")
both_wires = pytest.mark.parametrize("wire", ["sse", "ws"])


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own on the server that the tests share."""
    return "open." + "".join(c if c.isalnum() else "-" for c in request.node.name)


def publish(server: Server, *arguments: str) -> Done:
    return run("publish", *arguments, "--url", server.url, *KEY)


def publish_lines(server: Server, channel: str, lines: bytes) -> Done:
    return spawn("publish", channel, "-", "--url", server.url, *KEY, stdin=lines)


def history(server: Server, channel: str, *, count: int) -> list[Any]:
    """The channel's events as `tail --json` prints them."""
    arguments = ["--url", server.url, "--since", "earliest", "--json", "--count", str(count)]
    done = run("tail", channel, *arguments)
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def test_an_event_alone_is_answered_with_its_position(server: Server, channel: str) -> None:
    done = publish(
        server, channel, '{"bid" : 1.10}', "--key", "k", "--type", "t",
        "--tag", "a=1", "--tag", "b=x=y",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    (event,) = history(server, channel, count=1)
    assert event.pop("time") > 1_700_000_000_000
    assert event == {
        "position": done.out.strip(),
        "channel": channel,
        "key": "k",
        "type": "t",
        "tags": {"a": "1", "b": "x=y"},
        "data": {"bid": 1.1},
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [("5", 5), ("true", True), ('"5"', "5"), ("hello", "hello"), ("NaN", "NaN"), ("", ""),
     ("{'a': 1}", "{'a': 1}"), ("1 2", "1 2"), ("grüße", "grüße"), ("[1,\n2]", [1, 2])],
)  # fmt: skip
def test_data_is_json_if_it_is_and_else_text(
    server: Server, channel: str, data: str, said: Any
) -> None:
    publish(server, channel, data)
    assert history(server, channel, count=1)[0]["data"] == said


def test_text_is_text_if_that_is_wanted(server: Server, channel: str) -> None:
    publish(server, channel, "--text", "5")
    assert history(server, channel, count=1)[0]["data"] == "5"


def test_a_wrong_key_is_said_to_be(server: Server, channel: str) -> None:
    done = spawn("publish", channel, "1", "--url", server.url, TWINWIRE_API_KEY="wrong")
    assert done.code == 2
    assert done.err.startswith("twinwire: the server refuses: ")
    assert "wrong" not in done.err.partition("X-API-Key is missing or wrong")[0]
    assert done.err.count("\n") == 1


def test_the_key_may_come_from_the_environment(server: Server, channel: str) -> None:
    done = spawn("publish", channel, "1", "--url", server.url, TWINWIRE_API_KEY="secret")
    assert done.code == 0


def test_an_event_that_is_refused_is_said_to_be(server: Server, channel: str) -> None:
    done = publish(server, channel, "1", "--type", "gap")
    assert done.code == 2
    assert "bad type" in done.err
    done = publish_lines(server, channel, b"x" * 100_000)
    assert done.code == 2
    assert "event_max_bytes" in done.err


def test_lines_of_input_are_events(server: Server, channel: str) -> None:
    done = publish_lines(server, channel, b'one\n{"n":2}\n\nfour')
    assert done.code == 0
    assert done.out.startswith("published 4 events in ")
    assert [each["data"] for each in history(server, channel, count=4)] == [
        "one", {"n": 2}, "", "four",
    ]  # fmt: skip


def test_many_lines_arrive_in_order(server: Server, channel: str) -> None:
    lines = "".join(f"{n}\n" for n in range(20_000))
    assert publish_lines(server, channel, lines.encode()).code == 0
    assert [each["data"] for each in history(server, channel, count=20_000)] == list(range(20_000))


def test_input_from_a_file_is_read_too(server: Server, channel: str, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("1\n2\n")
    with (
        file.open("rb") as lines,
        running("publish", channel, "-", "--url", server.url, *KEY, stdin=lines) as process,
    ):
        code, out, _ = ended(process)
    assert (code, out[:18]) == (0, "published 2 events")


@both_wires
def test_a_line_is_seen_as_soon_as_it_is_written(server: Server, channel: str, wire: str) -> None:
    with (
        running("tail", channel, "--json", "--url", server.url, "--wire", wire) as tail,
        running("publish", channel, "-", "--url", server.url, *KEY) as publish,
    ):
        assert tail.stdout is not None
        assert publish.stdin is not None
        knock(server, channel, tail)
        for n in range(3):
            publish.stdin.write(b"%d\n" % n)
            publish.stdin.flush()
            while (data := json.loads(tail.stdout.readline())["data"]) == "knock":
                pass
            assert data == n


def knock(server: Server, channel: str, tail: "subprocess.Popen[bytes]") -> None:
    """Publish until `tail`, whose subscription may take a moment, has printed something."""
    assert tail.stdout is not None
    os.set_blocking(tail.stdout.fileno(), False)
    while not tail.stdout.readline():
        assert publish(server, channel, "knock").code == 0
    os.set_blocking(tail.stdout.fileno(), True)


def test_ctrl_c_says_how_much_was_published(server: Server, channel: str) -> None:
    with (
        running("tail", channel, "--url", server.url) as tail,
        running("publish", channel, "-", "--url", server.url, *KEY) as publish,
    ):
        knock(server, channel, tail)
        assert publish.stdin is not None
        assert tail.stdout is not None
        publish.stdin.write(b"1\n2\n")
        publish.stdin.flush()
        while not tail.stdout.readline().endswith(b"2\n"):
            pass
        code, out, err = ended(publish, signal.SIGINT)
        assert (code, out) == (130, "")
        assert err.startswith("twinwire: stopped: published 2 events in ")
        assert err.count("\n") == 1


def test_a_server_that_goes_away_ends_publishing_with_how_far_it_came(channel: str) -> None:
    with (
        Server(exit_codes=(-signal.SIGKILL,)) as server,
        running("publish", channel, "-", "--url", server.url) as publish,
        running("tail", channel, "--url", server.url) as tail,
    ):
        knock(server, channel, tail)
        assert publish.stdin is not None
        assert tail.stdout is not None
        publish.stdin.write(b"1\n")
        publish.stdin.flush()
        while not tail.stdout.readline().endswith(b"1\n"):
            pass
        server.kill()
        publish.stdin.write(b"2\n")
        publish.stdin.flush()
        # It hopes for the server's return for half a minute; nobody waits for that here.
        code, _, err = ended(publish, signal.SIGINT)
        assert code in (1, 130)
        assert "published 1 event in" in err


def test_a_tape_is_published_in_order_by_symbol(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    rows = [f"{1000 + n},{'AB'[n % 2]},{n}.10,{n}.20\n" for n in range(3000)]
    file.write_text("\ufefftime_ms,symbol,bid,ask\n" + "".join(rows))
    done = publish(server, "open.tape.{symbol}", "--tape", str(file), "--speed", "0")
    assert done.code == 0
    assert done.out.startswith("published 3000 events in ")
    assert done.err == ""
    events = history(server, "open.tape.*", count=3000)
    assert [each["data"]["n"] for each in events] == list(range(1, 3001))
    assert events[1]["channel"] == "open.tape.B"
    assert events[1]["key"] == "B"
    assert events[1]["data"] == {"symbol": "B", "bid": 1.1, "ask": 1.2, "time": 1001, "n": 2}


def test_a_tape_keeps_its_own_time(server: Server, channel: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("time_ms,x\n" + "".join(f"{500_000 + n * 100},1\n" for n in range(11)))
    done = publish(server, channel, "--tape", str(file), "--speed", "2")
    # Never early; late as the machine likes.
    assert float(done.out.split()[-2]) >= 0.5
    assert len(history(server, channel, count=11)) == 11


@pytest.mark.parametrize(
    ("content", "template", "code", "what"),
    [
        ("time_ms,symbol\n1,A\nx,A\n", "open.bad.{symbol}", 1, "line 3: time_ms is not"),
        ("time_ms,symbol\n1,A\n2,a b\n", "open.bad.{symbol}", 1, "line 3: bad channel"),
        ("time_ms,symbol\nx,A\n", "open.bad.{symbol}", 2, "line 2: time_ms is not"),
        ("time_ms,name\n1,A\n", "open.bad.{symbol}", 2, "no column 'symbol'"),
        ("hello", "open.bad.{symbol}", 2, "no column time_ms"),
        ("", "open.bad.{symbol}", 2, "the tape is empty"),
    ],
)
def test_a_bad_tape_is_explained(
    server: Server, tmp_path: Path, content: str, template: str, code: int, what: str
) -> None:
    file = tmp_path / "t.csv"
    file.write_text(content)
    done = publish(server, template, "--tape", str(file))
    assert done.code == code
    assert what in done.err
    assert done.err.count("\n") == 1


def test_a_terminal_sees_a_bar(server: Server, channel: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("time_ms,x\n" + "".join(f"{n * 10},1\n" for n in range(60)))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [TWINWIRE, "publish", channel, "--tape", str(file), "--url", server.url, *KEY],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=20)
    seen = read_all(ours)
    assert out.startswith(b"published 60 events in ")
    assert b"t.csv" in seen
    assert b"/60" in seen


def read_all(descriptor: int) -> bytes:
    seen = b""
    try:
        while piece := os.read(descriptor, 65536):
            seen += piece
    except OSError:
        pass  # the terminal's other end is closed
    os.close(descriptor)
    return seen


@both_wires
def test_tail_ends_after_so_many_events(server: Server, channel: str, wire: str) -> None:
    publish_lines(server, channel, b"1\n2\n3\n")
    first = history(server, channel, count=1)[0]["position"]
    done = run(
        "tail", channel, "--url", server.url, "--wire", wire, "--since", first, "--count", "2"
    )
    assert done.code == 0
    assert [line.split("  ")[1:] for line in done.out.splitlines()] == [
        [channel, "2"],
        [channel, "3"],
    ]


@both_wires
def test_tail_ends_quietly_on_ctrl_c(server: Server, channel: str, wire: str) -> None:
    with running("tail", channel, "--url", server.url, "--wire", wire) as tail:
        knock(server, channel, tail)
        code, _, err = ended(tail, signal.SIGINT)
        assert (code, err) == (0, "")


def close_at_once(tail: "subprocess.Popen[bytes]") -> None:
    assert tail.stdout is not None
    tail.stdout.close()


def close_after_a_line(tail: "subprocess.Popen[bytes]") -> None:
    assert tail.stdout is not None
    tail.stdout.readline()
    tail.stdout.close()


@pytest.mark.parametrize("close", [close_at_once, close_after_a_line])
def test_tail_ends_quietly_when_nobody_reads_it(
    server: Server, channel: str, close: Callable[["subprocess.Popen[bytes]"], None]
) -> None:
    publish_lines(server, channel, b"1\n2\n3\n")
    with running("tail", channel, "--url", server.url, "--since", "earliest") as tail:
        close(tail)
        assert tail.wait(20) == 0
        assert tail.stderr is not None
        assert tail.stderr.read() == b""


@both_wires
def test_tail_goes_on_when_the_server_is_back(wire: str, channel: str) -> None:
    port = unused_port()
    with Server("--set", "retry=0.1", port=port) as server:
        tail_of = running("tail", channel, "--json", "--url", server.url, "--wire", wire)
        tail = tail_of.__enter__()
        knock(server, channel, tail)
    try:
        with Server("--set", "retry=0.1", port=port) as server:
            assert tail.stdout is not None
            assert publish(server, channel, "again").code == 0
            seen: list[Any] = []
            while not seen or seen[-1].get("data") != "again":
                if "gap" not in (item := json.loads(tail.stdout.readline())):
                    seen.append(item)
                else:
                    seen.append(item)
                    assert publish(server, channel, "again").code == 0
            assert any("gap" in item and item["gap"]["reason"] == "restarted" for item in seen)
            code, _, err = ended(tail, signal.SIGINT)
            lines = err.splitlines()
            assert code == 0
            assert lines[0].startswith("twinwire: shutdown (3001); trying again in ")
            assert lines[-1].startswith("twinwire: connected again, going on after ")
    finally:
        tail_of.__exit__(None, None, None)


def test_tail_may_be_told_to_wait_for_a_server(channel: str) -> None:
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    with running("tail", channel, "--retry", "--json", "--since", "earliest", "--url", url) as tail:
        assert tail.stderr is not None
        assert tail.stderr.readline().startswith(b"twinwire: connection refused; trying again in ")
        with Server(port=port) as server:
            assert publish(server, channel, "1").code == 0
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["data"] == 1


@both_wires
def test_tail_says_what_it_may_not_see(server: Server, wire: str) -> None:
    done = run("tail", "secret", "--url", server.url, "--wire", wire)
    assert (done.code, done.out) == (2, "")
    assert "permission denied" in done.err
    assert done.err.count("\n") == 1


def test_the_recorded_market_arrives_whole(server: Server, tape: Path) -> None:
    done = publish(server, "open.market.{symbol}", "--tape", str(tape), "--speed", "0")
    assert done.out.startswith("published 9999 events in ")
    events = history(server, "open.market.*", count=9999)
    assert [each["data"]["n"] for each in events] == list(range(1, 10_000))
