"""What all commands have in common: help, exit codes, and one line for what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

import twinwire
from tests.cli.commands import spawn
from tests.servers import unused_port
from twinwire.cli import main

COMMANDS = ["serve", "demo", "publish", "tail", "bench"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["bench", "compare", "--help"], *([name, "--help"] for name in COMMANDS)],
)
def test_every_command_explains_itself(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "Usage: twinwire" in out
    assert err == ""


def test_without_a_command_there_is_help_and_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_it_says_which_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"twinwire {twinwire.__version__}\n"


WRONG = [
    (["bogus"], "no such command"),
    (["--bogus"], "no such option"),
    (["publish", "a", "1", "--bogus"], "no such option"),
    (["publish"], "say where to publish and what"),
    (["publish", "a"], "say where to publish and what"),
    (["publish", "a..b", "1"], "bad channel 'a..b'"),
    (["publish", "a.*", "1"], "bad channel 'a.*'"),
    (["publish", "a", "1", "--url", "h"], "bad URL 'h'"),
    (["publish", "a", "1", "--tag", "x"], "--tag takes NAME=VALUE, not 'x'"),
    (["publish", "a", "1", "--tape", "t.csv"], "--tape and DATA"),
    (["publish", "--tape", "missing.csv"], "missing.csv: no such file or directory"),
    (["publish", "--tape", "."], ".: is a directory"),
    (["publish", "--tape", "t.csv", "--speed", "-1"], "--speed -1.0"),
    (["publish", "--tape", "t.csv", "--speed", "nan"], "--speed nan"),
    (["publish", "--tape", "t.csv", "--speed", "x"], "'--speed'"),
    (["tail"], "missing argument"),
    (["tail", "a..b"], "bad channel 'a..b'"),
    (["tail", "a", "--since", "yesterday"], "bad position 'yesterday'"),
    (["tail", "a", "--wire", "smoke"], "'smoke' is no wire; there are sse and ws"),
    (["tail", "a", "--mode", "some"], "'some' is no mode; there are every, latest"),
    (["tail", "a", "--count", "0"], "'--count'"),
    (["tail", "a", "--url", "ftp://h"], "bad URL 'ftp://h'"),
    (["bench"], "missing command"),
    (["bench", "compare", "--url", "h"], "bad URL 'h'"),
    (["bench", "compare", "--channel", "a.*"], "bad channel 'a.*'"),
    (["bench", "compare", "--clients", "0"], "'--clients'"),
    (["bench", "compare", "--html", "."], ".: is a directory"),
    (["bench", "compare", "--json", "no/such.json"], "no/such.json: there is no folder"),
    (["serve", "--port", "x"], "'--port'"),
    (["serve", "--port", "70000"], "port (--port) should be less than or equal to 65535"),
    (["serve", "--set", "prot=1"], "there is no setting prot (--set prot); did you mean port?"),
    (["serve", "--set", "port"], "--set takes NAME=VALUE"),
    (["serve", "--set", "=1"], "--set takes NAME=VALUE"),
    (["serve", "--set", "allow_publish=x"], "allow_publish (--set allow_publish) should be a list"),
    (["serve", "--config", "missing.toml"], "missing.toml: no such file or directory"),
    (["serve", "--log-level", "loud"], "log_level (--log-level) should be 'critical'"),
    (["serve", "--api-key", ""], "api_key (--api-key) should not be empty"),
    (["serve", "--broker", "smoke://"], "broker: 'smoke' is not known"),
    (["serve", "--host", "0.0.0.0"], "without an API key anybody could publish"),
    (["serve", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
    (["serve", "--app", "x"], "--app takes MODULE:ATTRIBUTE"),
    (["serve", "--app", "os;x:y"], "--app takes MODULE:ATTRIBUTE"),
    (["serve", "--app", "no_such_module:x"], "there is no module no_such_module here"),
    (["serve", "--app", "os:no_such_thing"], "os has no no_such_thing"),
    (["serve", "--app", "os:name"], "neither a Hub nor an ASGI application"),
]


@pytest.mark.parametrize(("arguments", "what"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: list[str],
    what: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("twinwire: ")
    assert err.count("\n") == 1
    assert what in err


TAIL_WS = ["tail", "a", "--wire", "ws"]


@pytest.mark.parametrize(
    "arguments",
    [["publish", "a", "1"], ["publish", "a", "-"], ["tail", "a"], TAIL_WS, ["bench", "compare"]],
    ids=" ".join,
)
def test_without_a_server_it_says_so(arguments: list[str]) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    done = spawn(*arguments, "--url", url, stdin=b"x\n")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"twinwire: no connection to {url}: connection refused\n"


@pytest.mark.parametrize("module", ["twinwire", "twinwire.cli"])
def test_it_can_be_run_as_a_module(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("twinwire ")


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("httpx2", ["publish", "a", "1"]), ("httpx2", ["tail", "a"]), ("websockets", TAIL_WS)],
)
def test_a_missing_package_is_named(package: str, arguments: list[str]) -> None:
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        f"from twinwire.cli import main; sys.exit(main({arguments}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"twinwire: the client needs {package}: pip install 'twinwire[client]'\n"
    )
