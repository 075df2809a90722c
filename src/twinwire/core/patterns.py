"""The patterns in use, and which of them match a channel, remembered for each that is asked for."""

from __future__ import annotations

from typing import Final

from twinwire.core.event import pattern

_CHANNELS_KEPT: Final = 100_000
"""Channels whose matching patterns are remembered, at most."""


class Patterns:
    """A set of patterns."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._matching: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, text: str) -> bool:
        return text in self._texts

    def matching(self, channel: str) -> tuple[str, ...]:
        """The patterns that match `channel`."""
        matches = self._matching.get(channel)
        if matches is None:
            # Bounded by forgetting all: it is made again at the next event of each channel.
            if len(self._matching) >= _CHANNELS_KEPT:
                self._matching.clear()
            found = (text for text in self._texts if pattern(text).matches(channel))
            matches = self._matching[channel] = tuple(found)
        return matches

    def add(self, text: str) -> None:
        """Use this pattern too. Done twice it does nothing."""
        if text not in self._texts:
            self._texts.add(text)
            matches = pattern(text).matches
            for channel, found in self._matching.items():
                if matches(channel):
                    self._matching[channel] = (*found, text)

    def remove(self, text: str) -> None:
        """Use this pattern no longer. Raises `KeyError` if it was not used."""
        self._texts.remove(text)
        for channel, found in self._matching.items():
            if text in found:
                self._matching[channel] = tuple(other for other in found if other != text)
