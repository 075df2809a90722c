"""Headless Chromium, driven by Playwright."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, async_playwright


@asynccontextmanager
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """A browser of the system's own Chromium."""
    async with async_playwright() as playwright:
        # Its sandbox does not work for root, and the pages are ours.
        launched = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        async with launched:
            yield launched


async def until(page: Page, condition: str, seconds: float = 15) -> None:
    """Wait until a JavaScript expression is true, asked at every frame.

    Not `wait_for_function`, which evaluates text in the page: a strict page does not allow that.
    """
    await page.evaluate(
        """([condition, ms]) => new Promise((resolve, reject) => {
            const until = performance.now() + ms;
            const met = new Function(`return ${condition}`);
            const look = () => {
                if (met()) resolve();
                else if (performance.now() > until) reject(new Error(`never: ${condition}`));
                else requestAnimationFrame(look);
            };
            look();
        })""",
        [condition, seconds * 1000],
    )
