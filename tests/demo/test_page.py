"""`twinwire demo` and its page in headless Chromium: it moves, it answers, it loses nothing."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import run
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page

from tests.browser import browser, until
from tests.relay import Relay
from tests.servers import TWINWIRE, Command, plain_environment, unused_port
from twinwire.client import Publisher

PRICES = "document.querySelectorAll('#prices tr')"
SEQ = "document.getElementById('position').textContent.split('-')[1]"
QUICK = {"TWINWIRE_RETRY": "0.1"}  # the browser's time between connections is seconds


class Demo(Command):
    """`twinwire demo` with the flags given."""

    def __init__(self, *flags: str, **settings: str) -> None:
        port = unused_port()
        super().__init__([TWINWIRE, "demo", "--port", str(port), *flags], port, env=settings)


@pytest.fixture(scope="module")
async def launched(chromium: str) -> AsyncIterator[Browser]:
    async with browser(chromium) as running:
        yield running


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """One demo for the tests that neither change nor end it."""
    with Demo(**QUICK) as running:
        yield running


@asynccontextmanager
async def page_at(
    launched: Browser, url: str, theme: Literal["light", "dark"] = "light"
) -> AsyncIterator[Page]:
    """The demo's page; whatever the browser complains of fails the test."""
    complaints: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page = await launched.new_page(color_scheme=theme, viewport={"width": 1240, "height": 760})
    page.on("console", console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        await page.goto(url)
        yield page
    finally:
        await page.close()
    # A lost connection is told by the browser too, and is what some of the tests are about.
    assert [text for text in complaints if "net::ERR_" not in text] == []


async def counted(page: Page) -> dict[str, Any]:
    """What the page says, all of one moment."""
    said: dict[str, Any] = await page.evaluate(
        """() => {
            const text = (id) => document.getElementById(id).textContent;
            return {
                state: text("state"),
                seq: Number(text("position").split("-")[1]),
                events: Number(text("events").replaceAll(",", "")),
                reconnects: Number(text("reconnects")),
                gaps: Number(text("gaps")),
            };
        }"""
    )
    return said


async def test_prices_move_within_two_seconds_of_the_server_answering(launched: Browser) -> None:
    with Demo() as demo:
        answering = time.monotonic()
        async with page_at(launched, demo.url) as page:
            await until(page, f"{PRICES}.length > 0")
            before = await page.locator("#prices").inner_text()
            await until(page, f"document.getElementById('prices').innerText !== {before!r}")
            assert time.monotonic() - answering < 2
            await until(page, f"{PRICES}.length === 8")


async def test_the_page_says_that_the_market_is_simulated(launched: Browser, demo: Demo) -> None:
    async with page_at(launched, demo.url) as page:
        await until(page, f"{PRICES}.length > 0")
        assert await page.locator("#source").inner_text() == "Simulated market, not real prices"


async def test_a_command_is_answered_over_the_other_wire(launched: Browser, demo: Demo) -> None:
    async with page_at(launched, demo.url) as page:
        # With the keyboard alone.
        await page.get_by_label("Text for the command echo").focus()
        await page.keyboard.press("Control+A")
        await page.keyboard.type("“1 < 2” & <b>ü</b> \\n 😀")
        await page.keyboard.press("Enter")
        await until(page, "document.getElementById('answer').className === 'told'")
        answer = await page.get_by_role("status").last.inner_text()
        assert answer.startswith("““1 < 2” & <b>ü</b> \\n 😀” after ")
        assert answer.endswith(" ms")
        ways = await page.locator("#frames li").evaluate_all("all => all.map(li => li.dataset.way)")
        assert ways == ["→", "←", "→", "←"]
        assert (await counted(page))["state"] == "Connected"


async def test_a_command_after_the_connection_was_lost_gets_a_new_one(
    launched: Browser, demo: Demo
) -> None:
    async with Relay(demo.port) as relay, page_at(launched, relay.url) as page:
        for text in ("first", "second"):
            await page.get_by_label("Text for the command echo").fill(text)
            await page.get_by_role("button", name="Send").click()
            await until(page, f"document.getElementById('answer').innerText.includes('{text}')")
            relay.cut()
            await until(page, "document.getElementById('state').dataset.state === 'connected'")


async def test_after_a_cut_the_page_has_every_event_once(launched: Browser, demo: Demo) -> None:
    async with Relay(demo.port) as relay, page_at(launched, relay.url) as page:
        await until(page, "document.getElementById('events').textContent > 20")
        before = await counted(page)
        async with relay.down(), page_at(launched, demo.url) as other:
            await until(page, "document.getElementById('state').dataset.state === 'reconnecting'")
            # Somebody else sees that the market goes on meanwhile.
            await until(other, "document.getElementById('events').textContent > 40")
            missed = (await counted(other))["seq"]
        await until(page, "document.getElementById('state').dataset.state === 'connected'")
        await until(page, f"{SEQ} > {missed} + 20")
        after = await counted(page)
        assert after["events"] - before["events"] == after["seq"] - before["seq"]
        assert after["seq"] - before["seq"] > 60
        assert (after["reconnects"], after["gaps"]) == (1, 0)


async def test_what_is_lost_is_told(launched: Browser) -> None:
    with Demo("--speed", "5", TWINWIRE_LOG_EVENTS="10", **QUICK) as demo:
        async with Relay(demo.port) as relay, page_at(launched, relay.url) as page:
            await until(page, "document.getElementById('events').textContent > 5")
            async with relay.down(), page_at(launched, demo.url) as other:
                await until(other, "document.getElementById('events').textContent > 100")
            await until(page, "document.getElementById('gaps').textContent === '1'")
            told = await page.locator("#gaps").get_attribute("title")
            assert told is not None
            assert told.endswith("evicted")


async def test_what_is_no_quote_is_counted_and_not_shown(launched: Browser) -> None:
    with Demo() as demo:
        async with page_at(launched, demo.url) as page, Publisher(demo.url) as publisher:
            await until(page, f"{PRICES}.length === 8")
            odd: list[Any] = ["text", None, 1, [], {"bid": "1", "ask": 2}, b"bytes"]
            for data in odd:
                position = await publisher.publish("prices.ODD", data, key="ODD")
            await publisher.publish("prices.OWN", {"bid": 1.5, "ask": 1.75}, key="<b>OWN</b>")
            await until(page, f"{PRICES}[0].innerText.startsWith('<b>OWN</b>\\t1.50\\t1.75\\t')")
            await until(page, f"{SEQ} > {position.seq}")
            assert await page.evaluate(f"{PRICES}.length") == 9


async def test_a_tape_is_shown_with_its_name_and_its_decimals(
    launched: Browser, tape: Path
) -> None:
    with Demo("--tape", str(tape), "--speed", "20") as demo:
        async with page_at(launched, demo.url) as page:
            await until(page, "document.getElementById('events').textContent > 50")
            assert await page.locator("#source").inner_text() == f"Tape {tape.name}"
            row = await page.locator("#prices tr").inner_text()
            symbol, bid, ask, *_ = row.split("\t")
            assert symbol == "BTCUSDT"
            assert bid[-3] == ask[-3] == "."
            assert 9_000 < float(bid.replace(",", "")) < 10_000


async def test_the_table_is_one_for_a_screen_reader(launched: Browser, demo: Demo) -> None:
    async with page_at(launched, demo.url) as page:
        await until(page, f"{PRICES}.length === 8")
        table = page.get_by_role("table", name="Prices")
        heads = await table.get_by_role("columnheader").all_inner_texts()
        assert heads == ["Symbol", "Bid", "Ask", "Change", "Last minute"]
        symbols = await table.get_by_role("rowheader").all_inner_texts()
        assert symbols == sorted(symbols)
        assert len(symbols) == 8
        assert await page.get_by_role("status").first.inner_text() == "Connected"


async def test_the_page_loads_nothing_from_elsewhere(launched: Browser, demo: Demo) -> None:
    page = await launched.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    response = await page.goto(demo.url)
    assert response is not None
    assert response.headers["content-security-policy"] == "default-src 'self'"
    await until(page, f"{PRICES}.length > 0")
    await page.close()
    assert len(asked) >= 4
    assert all(url.startswith(demo.url + "/") for url in asked)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_page_fits_and_has_its_theme(
    launched: Browser, demo: Demo, theme: Literal["light", "dark"], tmp_path: Path
) -> None:
    async with page_at(launched, demo.url, theme) as page:
        await until(page, f"{PRICES}.length === 8")
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground.strip("rgb()").split(",")) / 3
        assert (brightness > 128) == (theme == "light")
        for width in (1240, 768, 390):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            picture = tmp_path / f"{theme}-{width}.png"
            await page.screenshot(path=picture, full_page=True)
            assert picture.stat().st_size > 20_000


async def test_it_ends_at_once_with_a_page_open(launched: Browser) -> None:
    with Demo() as demo:
        page = await launched.new_page()
        await page.goto(demo.url)
        await until(page, f"{PRICES}.length > 0")
        begun = time.monotonic()
        assert demo.stop() == 0
        assert time.monotonic() - begun < 2
        await page.close()
        assert "Traceback" not in demo.output


def test_it_opens_a_browser_if_asked_to(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >{opened}.new && mv {opened}.new {opened}\n')
    program.chmod(0o755)
    with Demo("--open", BROWSER=str(program)) as demo:
        while not opened.exists():
            time.sleep(0.02)
        assert opened.read_text() == f"{demo.url}\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file"),
        (b"time_ms,symbol,bid,ask\n1,A,dear,2\n", "line 2: no tick"),
        (b"\xff\n", "no text in utf-8"),
    ],
)
def test_a_tape_that_cannot_be_played_is_one_line_and_exit_code_2(
    content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    tape = tmp_path / "tape.csv"
    if content is not None:
        tape.write_bytes(content)
    argv = [TWINWIRE, "demo", "--port", "0", "--tape", str(tape)]
    done = run(argv, env=plain_environment(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert sentence in done.stderr.lower()
    assert len(done.stderr.splitlines()) == 1
