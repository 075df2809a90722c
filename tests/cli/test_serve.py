"""`twinwire serve`: its settings, and serving somebody's own hub."""

import json
import tomllib
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.commands import spawn
from tests.servers import TWINWIRE, Command, Server, unused_port

APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from twinwire import Hub

hub = Hub(log_events=50, allow_publish=["chat.*"])

async def hello(request):
    return PlainTextResponse("hello")

app = Starlette(routes=[Route("/hello", hello), Mount("/live", hub.app)], lifespan=hub.lifespan)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an application in it."""
    (tmp_path / "mine.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import no_such_package")
    (tmp_path / "wrong.py").write_text("from twinwire import Hub\nhub = Hub(log_events=0)")
    return tmp_path


def settings_of(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def places(text: str) -> dict[str, str]:
    """Where each setting that is not a default comes from, as the listing says."""
    marked = [line.partition("  # ") for line in text.splitlines()]
    return {line.split(" ")[0]: where for line, _, where in marked if where}


def test_the_settings_in_force_are_listed_with_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('log_events = 7\n[[channels]]\npattern = "a.*"\nlog_age = 1.5\n')
    done = spawn(
        "serve", "--check-config", "--config", str(file), "--port", "9",
        "--set", "heartbeat=2", "--set", 'allow_publish=["chat.*", "x\\"y"]',
        TWINWIRE_ECHO="true", TWINWIRE_PORT="10",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    found = settings_of(done.out)
    assert (found["port"], found["log_events"], found["echo"]) == (9, 7, True)
    assert (found["heartbeat"], found["allow_publish"]) == (2.0, ["chat.*", 'x"y'])
    assert found["channels"][0]["log_age"] == 1.5
    assert places(done.out) == {
        "port": "--port",
        "heartbeat": "--set heartbeat",
        "allow_publish": "--set allow_publish",
        "echo": "TWINWIRE_ECHO in the environment",
        "log_events": f"in {file}",
        "channels": f"in {file}",
    }


def test_the_listing_is_a_file_that_could_be_used(tmp_path: Path) -> None:
    done = spawn("serve", "--check-config", "--set", 'channels=[{"pattern":"a","log_events":1}]')
    file = tmp_path / "t.toml"
    file.write_text(done.out)
    again = spawn("serve", "--check-config", "--config", str(file))
    assert again.code == 0
    assert settings_of(again.out) == settings_of(done.out)


def test_the_listing_shows_no_secret() -> None:
    done = spawn(
        "serve", "--check-config", "--broker", "redis://me:hunter2@h:1/0",
        TWINWIRE_API_KEY="hunter2",
    )  # fmt: skip
    assert "hunter2" not in done.out + done.err
    assert settings_of(done.out)["api_key"] == "**********"
    assert settings_of(done.out)["broker"] == "redis://me:***@h:1/0"


def test_checking_finds_what_is_wrong() -> None:
    done = spawn("serve", "--check-config", TWINWIRE_PORT="x")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("twinwire: port (TWINWIRE_PORT in the environment) should be a ")


def test_a_port_in_use_is_said_to_be() -> None:
    with Server() as server:
        done = spawn("serve", "--port", str(server.port))
        assert done.code == 2
        assert done.err.startswith(f"twinwire: port {server.port} on 127.0.0.1 is in use")
        assert done.err.count("\n") == 1


def test_a_hub_is_served_with_its_own_settings(project: Path) -> None:
    with Server("--app", "mine:hub", cwd=project) as server:
        body = {"channel": "a", "data": 1}
        answer = httpx2.post(server.url + "/api/publish", json=body).json()
        assert answer["result"]["offset"] == 1


def test_an_application_is_served_with_the_hub_in_it(project: Path) -> None:
    port = unused_port()
    serve = [TWINWIRE, "serve", "--port", str(port), "--app", "mine:app"]
    with Command(serve, port, ready="/hello", cwd=project) as server:
        assert httpx2.get(server.url + "/hello").text == "hello"
        body = json.dumps({"channel": "a", "data": 1})
        answer = httpx2.post(server.url + "/live/api/publish", content=body).json()
        assert answer["result"]["offset"] == 1


def test_what_is_the_hubs_to_say_is_not_said_beside_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    done = spawn("serve", "--app", "mine:hub", "--api-key", "x", "--check-config")
    assert done.code == 2
    assert "api_key (--api-key) is for the application's hub to set, as in Hub(api_key=...)" in (
        done.err
    )
    done = spawn("serve", "--app", "mine:hub", "--port", "9", "--check-config")
    assert places(done.out) == {
        "port": "--port",
        "log_events": "by the application",
        "allow_publish": "by the application",
    }


def test_an_applications_own_mistake_is_shown_in_full(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    done = spawn("serve", "--app", "broken:hub")
    assert "Traceback" in done.err
    assert "no_such_package" in done.err


def test_a_wrong_setting_in_it_is_said_in_a_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    done = spawn("serve", "--app", "wrong:hub")
    assert done.code == 2
    assert done.err == "twinwire: log_events (given) should be greater than or equal to 1\n"
