"""Event streams with gzip: what clients of many kinds make of them. See also tests/wires."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.browser import browser, until
from tests.plain import Api, ask, stream
from tests.servers import Server
from tests.waiting import wait_until


def path(channel: str, **query: str) -> str:
    return "/sse?" + "&".join(f"{k}={v}" for k, v in {"channel": channel, **query}.items())


def ticks(channel: str, count: int) -> list[tuple[str, object]]:
    return [(channel, {"bid": 1.1 + n / 1e5, "ask": 1.2 + n / 1e5}) for n in range(count)]


def test_who_accepts_gzip_gets_it_and_others_do_not(port: int, channel: str) -> None:
    with (
        stream(port, path(channel)) as plain,
        stream(port, path(channel), accept_encoding="gzip, br") as coded,
    ):
        assert "content-encoding" not in plain.response.headers
        assert coded.response.headers["content-encoding"] == "gzip"
        for response in (plain.response, coded.response):
            assert response.headers["vary"].lower() == "accept-encoding"
            assert response.headers["content-type"] == "text/event-stream"


def test_the_head_of_a_stream_says_the_same(port: int, channel: str) -> None:
    response, _ = ask(port, path(channel), method="HEAD", accept_encoding="gzip")
    assert response.headers["content-encoding"] == "gzip"


def test_who_accepts_nothing_that_we_have_is_refused(port: int, channel: str) -> None:
    response, body = ask(port, path(channel), accept_encoding="br, *;q=0")
    assert response.status == 406
    assert "accept-encoding" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_all_of_a_lane_read_the_same_whenever_they_came(
    port: int, api: Api, channel: str, version: str
) -> None:
    coded = partial(stream, port, accept_encoding="gzip", version=version)
    with (
        stream(port, path(channel)) as plain,
        coded(path(channel)) as early,
    ):
        api.publish_all(ticks(channel, 200))
        expected = plain.events(200)
        assert early.events(200) == expected
        with coded(path(channel)) as late:
            last = api.publish(channel, "one")
            assert [s.event().id for s in (plain, early, late)] == [last] * 3
            api.publish_all(ticks(channel, 300))
            expected = plain.events(300)
            assert early.events(300) == expected
            assert late.events(300) == expected
        # And one who comes back reads what others have read from its position on.
        with coded(path(channel), last_event_id=str(expected[99].id)) as back:
            assert back.events(200) == expected[100:]


def test_a_batch_takes_a_fraction_of_the_bytes(port: int, api: Api, channel: str) -> None:
    with stream(port, path(channel)) as watching:
        first = api.publish(channel, "begin")
        api.publish_all(ticks(channel, 500))
        watching.events(501)
    sizes = []
    for accept in ("identity", "gzip"):
        with stream(
            port, path(channel), last_event_id=first, accept_encoding=accept, primed=False
        ) as read:
            read.events(500)
        sizes.append(read.size)
    assert sizes[1] < sizes[0] / 4


def test_curl_shows_each_event_as_it_comes(port: int, api: Api, channel: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    url = f"http://127.0.0.1:{port}{path(channel)}"
    with subprocess.Popen(
        ["curl", "--compressed", "--no-buffer", "--silent", "--include", url],
        stdout=subprocess.PIPE,
    ) as curl:
        try:
            assert curl.stdout is not None
            lines: Iterator[str] = (line.decode().rstrip() for line in curl.stdout)
            head = [*iter(lambda: next(lines), "")]
            assert "content-encoding: gzip" in head
            assert next(lines).startswith("retry: ")
            for count in (1, 1, 200, 1):
                positions = api.publish_all(ticks(channel, count))
                seen = [
                    next(line for line in lines if line.startswith("data: ")) for _ in positions
                ]
                assert [json.loads(line[6:]) for line in seen] == [
                    d for _, d in ticks(channel, count)
                ]
        finally:
            curl.kill()


async def test_httpx_reads_each_event_as_it_comes(port: int, api: Api, channel: str) -> None:
    url = f"http://127.0.0.1:{port}{path(channel)}"
    async with httpx2.AsyncClient() as client, client.stream("GET", url) as response:
        assert response.headers["content-encoding"] == "gzip"
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("retry: ")
        for count in (1, 200, 1):
            api.publish_all(ticks(channel, count))
            for _, data in ticks(channel, count):
                while not (line := await anext(lines)).startswith("data: "):
                    pass
                assert json.loads(line[6:]) == data


def test_a_stream_that_the_server_ends_is_whole_for_clients(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    with Server("--set", "drain_time=0") as server:
        url = server.url + "/sse?channel=a"
        heard = tmp_path / "heard"
        with (
            heard.open("wb") as out,
            subprocess.Popen(
                ["curl", "--compressed", "--no-buffer", "--silent", "--show-error", url],
                stdout=out,
                stderr=subprocess.PIPE,
            ) as curl,
        ):
            wait_until(lambda: heard.read_bytes().endswith(b"\n\n"))
            server.stop()
            _, errors = curl.communicate(timeout=10)
        assert b"event: reconnect" in heard.read_bytes()
        assert (curl.returncode, errors) == (0, b"")


def test_compression_can_be_switched_off() -> None:
    with Server("--set", "compression=false") as server:
        response, _ = ask(server.port, "/sse?channel=a", method="HEAD", accept_encoding="gzip")
        assert "content-encoding" not in response.headers
        assert "vary" not in response.headers


async def test_chromium_sees_each_event_as_it_comes(
    chromium: str, port: int, api: Api, channel: str
) -> None:
    async with browser(chromium) as running:
        page = await running.new_page()
        codings: list[str | None] = []
        page.on("response", lambda r: codings.append(r.headers.get("content-encoding")))
        await page.goto(f"http://127.0.0.1:{port}/health")
        codings.clear()
        await page.evaluate(
            """(path) => new Promise((resolve) => {
                const source = new EventSource(path);
                window.seen = [];
                source.onmessage = ({ data, lastEventId }) => seen.push([data, lastEventId]);
                source.onopen = () => resolve();
            })""",
            path(channel),
        )
        seen = 0
        for count in (1, 1, 200, 1):
            positions = api.publish_all(ticks(channel, count))
            seen += count
            await until(page, f"seen.length >= {seen}")
            found = (await page.evaluate("seen"))[-count:]
            assert [id for _, id in found] == positions
            assert [json.loads(data) for data, _ in found] == [d for _, d in ticks(channel, count)]
        assert codings == ["gzip"]
