"""What a client under test has seen so far, for tests that wait for more of it."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

Item = dict[str, Any]


class Seen:
    """A list that can be waited on."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.totals: Counter[str] = Counter()
        """How many there are of each kind."""
        self._changed = asyncio.Event()

    def add(self, item: Item) -> None:
        self.items.append(item)
        self.totals[item["on"]] += 1
        self._changed.set()

    def of(self, kind: str, **fields: Any) -> list[Item]:
        """The items of a kind, with these fields."""
        return [
            item
            for item in self.items
            if item["on"] == kind and all(item.get(k) == v for k, v in fields.items())
        ]

    async def until(self, done: Callable[[], bool], seconds: float = 15) -> None:
        """Wait until `done`, which is asked whenever something is added."""
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"only this in {seconds} s: {self.items[-20:]}") from None

    async def count(self, n: int, kind: str, **fields: Any) -> list[Item]:
        """Wait until there are `n` items of a kind, and return them."""
        await self.until(lambda: len(self.of(kind, **fields)) >= n)
        return self.of(kind, **fields)
