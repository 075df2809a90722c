"""`twinwire tail --verify`: holds what was received against the server's history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from twinwire.core.event import Position, is_pattern
from twinwire.errors import CommandError, Refusal

if TYPE_CHECKING:
    from twinwire.client.ledger import Entry, Ledger, Verdict
    from twinwire.client.over_http import ApiLink

_GONE: Final = Refusal.UNRECOVERABLE_POSITION.code


class _Publication(msgspec.Struct):
    offset: int
    data: msgspec.Raw = msgspec.Raw()
    key: str | None = None


class _History(msgspec.Struct):
    epoch: str
    offset: int
    publications: list[_Publication]


class _Channels(msgspec.Struct):
    channels: dict[str, msgspec.Raw]


class _Error(msgspec.Struct):
    code: int
    message: str


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()
    error: _Error | None = None


async def verify(ledger: Ledger, url: str, api_key: str | None) -> Verdict:
    """The verdict. Raises `Refused`, `Unreachable` and `CommandError`."""
    from twinwire.client.address import Address
    from twinwire.client.over_http import ApiLink

    entries: list[Entry] = []
    known: dict[str, Position] = {}
    async with ApiLink(Address(url), api_key) as link:
        for channel in await _channels(link, ledger):
            found, known[channel] = await _history(link, channel, ledger.begin)
            entries += found
    return ledger.check(entries, known)


async def _channels(link: ApiLink, ledger: Ledger) -> set[str]:
    found = {selector for selector in ledger.selection if not is_pattern(selector)}
    for selector in ledger.selection.patterns:
        answer = await _ask(link, "channels", {"pattern": selector})
        found |= msgspec.json.decode(answer, type=_Channels).channels.keys()
    return found


async def _history(
    link: ApiLink, channel: str, begin: Position | None
) -> tuple[list[Entry], Position]:
    """The channel's events after `begin`, or as many as there still are; and after which position
    they are all there were."""
    from twinwire.client.ledger import Entry

    request: dict[str, Any] = {"channel": channel, "limit": -1}
    since = {} if begin is None else {"since": {"epoch": str(begin.epoch), "offset": begin.seq}}
    try:
        answer = await _ask(link, "history", request | since)
    except CommandError as error:
        if error.code != _GONE:
            raise
        begin, answer = None, await _ask(link, "history", request)
    past = msgspec.json.decode(answer, type=_History)
    epoch = int(past.epoch)
    entries = [
        Entry(
            Position(epoch, said.offset),
            channel,
            said.key,
            # Bytes are told apart from text in other ways on each wire.
            bytes(said.data) or None,
        )
        for said in past.publications
    ]
    if begin is not None:
        return entries, begin
    oldest = past.publications[0].offset - 1 if entries else past.offset
    return entries, Position(epoch, oldest)


async def _ask(link: ApiLink, method: str, request: Mapping[str, Any]) -> msgspec.Raw:
    from twinwire.client import Refused, Unreachable
    from twinwire.client.over_http import NoAnswer, NotSent

    try:
        answer = await link.post(f"/api/{method}", msgspec.json.encode(request))
    except (NotSent, NoAnswer) as error:
        raise Unreachable(f"/api/{method}", error.why) from None
    if answer.status != 200:
        raise Refused(answer.status, answer.why)
    said = msgspec.json.decode(answer.body, type=_Answer)
    if said.error is not None:
        raise CommandError(said.error.code, said.error.message)
    return said.result
