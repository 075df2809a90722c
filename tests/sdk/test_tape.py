"""The promise: a market's tape, published from a shell, is in a browser and in the official SDKs at
once, every tick in order and once, although each of them was cut off in the middle."""

import asyncio
import csv
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser import browser, until
from tests.conftest import Node
from tests.relay import Relay
from tests.sdk.clients import NodeSdk, PythonSdk, Sdk
from tests.seen import Seen
from tests.servers import TWINWIRE, Server, plain_environment
from twinwire.client import Event, subscribe

CHANNEL = "prices.BTCUSDT"
SPEED = 20
MISSED = 500  # ticks that pass while a client is cut off

Tick = tuple[int, float, float]


def ticks_of(tape: Path) -> list[Tick]:
    with tape.open(newline="") as lines:
        return [
            (int(row["time_ms"]), float(row["bid"]), float(row["ask"]))
            for row in csv.DictReader(lines)
        ]


def received(data: list[dict[str, Any]]) -> list[Tick]:
    return [(tick["time"], tick["bid"], tick["ask"]) for tick in data]


@pytest.mark.timeout(120)  # the tape alone takes 11 seconds at this speed
async def test_a_tape_arrives_whole_in_a_browser_and_in_both_sdks(
    tape: Path, chromium: str, node: Node
) -> None:
    ticks = ticks_of(tape)
    assert len(ticks) == 9_999
    third = len(ticks) // 3
    with Server() as server:
        async with (
            browser(chromium) as launched,
            Relay(server.port) as to_page,
            Relay(server.port) as to_python,
            Relay(server.port) as to_node,
            PythonSdk(to_python.ws_url + "/ws") as python,
            NodeSdk(to_node.ws_url + "/connection/websocket", node) as javascript,
        ):
            page = await launched.new_page()
            await listen(page, to_page)
            for sdk in (python, javascript):
                await sdk.connect()
                await sdk.subscribe(CHANNEL)
            witness = Seen()
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(watch(server, witness, len(ticks)))
                publishing = tasks.create_task(publish(tape, server))
                # One after the other, so that each is alone with its loss.
                await until(page, f"ticks.length > {third // 2}")
                await cut(to_page, witness)
                await ticks_at(python, third)
                await cut(to_python, witness)
                await ticks_at(javascript, 2 * third)
                await cut(to_node, witness)
                await publishing
                await watching
            await until(page, f"ticks.length >= {len(ticks)}")
            await ticks_at(python, len(ticks))
            await ticks_at(javascript, len(ticks))

            assert received(await page.evaluate("ticks")) == ticks
            assert await page.evaluate("opened") == 2
            assert await page.evaluate("gaps") == 0
            for sdk in (python, javascript):
                assert received(sdk.data(CHANNEL)) == ticks
                first, again = sdk.seen.of("subscribed")
                assert (first["recovered"], again["recovered"]) == (False, True)


async def listen(page: Page, relay: Relay) -> None:
    """A page's own EventSource, as plain as can be. Where the page comes from is of no matter."""
    await page.goto(relay.url + "/health")
    await page.evaluate(
        """(channel) => new Promise((resolve) => {
            Object.assign(window, { ticks: [], opened: 0, gaps: 0 });
            const source = new EventSource(`/sse?channel=${channel}`);
            source.onmessage = ({ data }) => ticks.push(JSON.parse(data));
            source.onopen = () => { opened += 1; resolve(); };
            source.addEventListener("gap", () => { gaps += 1; });
        })""",
        CHANNEL,
    )


async def publish(tape: Path, server: Server) -> None:
    argv = [TWINWIRE, "publish", CHANNEL, "--url", server.url, "--tape", str(tape)]
    process = await asyncio.create_subprocess_exec(
        *argv, "--speed", str(SPEED), stdout=PIPE, stderr=STDOUT, env=plain_environment()
    )
    try:
        printed, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, printed.decode()


async def watch(server: Server, witness: Seen, count: int) -> None:
    """Somebody who is not cut off, to know how far the tape is."""
    async with subscribe(server.url, [CHANNEL], since="earliest") as items:
        async for item in items:
            if isinstance(item, Event):
                witness.add({"on": "publication"})
                if len(witness.items) == count:
                    return


async def ticks_at(sdk: Sdk, count: int) -> None:
    await sdk.seen.until(lambda: sdk.seen.totals["publication"] >= count, 30)


async def cut(relay: Relay, witness: Seen) -> None:
    async with relay.down():
        then = len(witness.items) + MISSED
        await witness.until(lambda: len(witness.items) >= then)
