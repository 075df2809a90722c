"""The client's HTTP: asking for event streams, and posting to the API. Decides nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from http import HTTPStatus
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from twinwire.client.address import Address
from twinwire.client.errors import ComeBack, MissingExtra, Refused, reason
from twinwire.client.sse import Request
from twinwire.errors import BadFrame, BadInput
from twinwire.wires.deflate import Gunzip

try:
    import httpx2
except ModuleNotFoundError as error:
    raise MissingExtra("httpx2") from error

CONNECT_TIME: Final = 10.0
"""Seconds that a connection may take to be made."""

ANSWER_TIME: Final = 30.0
"""Seconds that an answer may take."""

_IDLE_TIME: Final = 2.0
"""Seconds after which an idle connection is not used again. Servers close theirs after about five;
a request that meets its connection's end is one whose fate is not known."""

_PIECES_AHEAD: Final = 16
"""Pieces, of up to 64 KiB, that are read ahead of who takes them."""

_TEMPORARY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Answer(NamedTuple):
    """An HTTP answer. `why` is what a server says that refuses, `retry_after` in seconds the time
    for which it wants to be left alone."""

    status: int
    body: bytes
    why: str
    retry_after: float | None


class NotSent(Exception):
    """No connection was made, so nothing of the request has arrived; `why` says what failed."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class NoAnswer(Exception):
    """The request was sent and the connection broke, or stayed silent; `why` says how."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class StreamLink:
    """One event stream. It is read by a task of its own, a little ahead of `receive`."""

    def __init__(self, address: Address, request: Request, silence: float) -> None:
        self._pieces: asyncio.Queue[bytes | Exception] = asyncio.Queue(_PIECES_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(_pump(self._pieces, address, request, silence))

    async def receive(self, patience: float | None) -> bytes:
        """The next piece of the stream. Raises `ComeBack`, `Refused` and `BadInput`.

        How long it may take has been said at the beginning; `patience` is for other links.
        """
        piece = await self._pieces.get()
        if isinstance(piece, bytes):
            return piece
        raise piece

    async def send(self, text: str) -> None:
        """A stream goes one way only."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End the connection."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def abort(self) -> None:
        """End the connection from anywhere, without waiting."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)


async def _pump(
    pieces: asyncio.Queue[bytes | Exception], address: Address, request: Request, silence: float
) -> None:
    try:
        await _read(pieces, address, request, silence)
        end: Exception = ComeBack("the stream has ended")
    except httpx2.ReadTimeout:
        end = ComeBack(f"nothing heard for {silence:g} s")
    except httpx2.TransportError as error:
        end = ComeBack(reason(error))
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        end = BadInput(f"{address}: {error}")
    except (ComeBack, Refused, BadFrame) as error:
        end = error
    await pieces.put(end)


async def _read(
    pieces: asyncio.Queue[bytes | Exception], address: Address, request: Request, silence: float
) -> None:
    timeout = httpx2.Timeout(CONNECT_TIME, read=silence)
    async with (
        _client(address, timeout) as client,
        client.stream(
            "GET", address.http("/sse"), params=request.query, headers=request.headers
        ) as response,
    ):
        await _accept(response)
        coding = response.headers.get("content-encoding", "identity").lower()
        if coding not in ("identity", "gzip"):
            raise Refused(
                response.status_code, f"its coding is {coding[:64]}, which was not asked for"
            )
        gunzip = Gunzip() if coding == "gzip" else None
        async with aclosing(response.aiter_raw()) as stream:
            async for piece in stream:
                for part in gunzip.feed(piece) if gunzip else (piece,):
                    await pieces.put(part)


async def _accept(response: httpx2.Response) -> None:
    """Raises unless the response is an event stream."""
    status = response.status_code
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if status == 200 and kind == "text/event-stream":
        return
    if status == 200:
        raise Refused(status, f"no event stream but {kind or 'nothing'}: is this twinwire's URL?")
    await response.aread()
    why = _why(response)
    if status in _TEMPORARY:
        raise ComeBack(f"{why} ({status})", _retry_after(response))
    raise Refused(status, why)


class ApiLink:
    """Posts to the HTTP API, over a connection that is kept."""

    def __init__(self, address: Address, api_key: str | None) -> None:
        headers = {"Content-Type": "application/json"}
        if api_key:
            headers["X-API-Key"] = api_key
        self._address = address
        self._client = _client(address, httpx2.Timeout(ANSWER_TIME, connect=CONNECT_TIME), headers)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    async def post(self, path: str, body: bytes) -> Answer:
        """Raises `NotSent` and `NoAnswer`."""
        try:
            response = await self._client.post(self._address.http(path), content=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise NotSent(reason(error)) from None
        except httpx2.ReadTimeout:
            raise NoAnswer(f"no answer within {ANSWER_TIME:g} s") from None
        except httpx2.TransportError as error:
            raise NoAnswer(reason(error)) from None
        except (httpx2.RequestError, httpx2.InvalidURL, UnicodeError) as error:
            raise BadInput(f"{self._address}: {error}") from None
        return Answer(
            response.status_code, response.content, _why(response), _retry_after(response)
        )


def _client(
    address: Address, timeout: httpx2.Timeout, headers: dict[str, str] | None = None
) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        headers=headers,
        timeout=timeout,
        limits=httpx2.Limits(keepalive_expiry=_IDLE_TIME),
        # Loading the certificates takes longer than all else here. Without redirects, which could
        # lead from http to https, plain http has no use for them.
        verify=address.secure,
        follow_redirects=False,
    )


def _why(response: httpx2.Response) -> str:
    """What a server says in an answer that is not the wanted one, in a line."""
    if location := response.headers.get("location"):
        return f"it redirects to {location[:200]}"
    try:
        return str(msgspec.json.decode(response.content)["error"]["message"])
    except (msgspec.DecodeError, UnicodeError, LookupError, TypeError):
        pass
    try:
        return HTTPStatus(response.status_code).phrase.lower()
    except ValueError:
        return "no reason given"


def _retry_after(response: httpx2.Response) -> float | None:
    # The header may also hold a date; nothing that speaks to us sends one.
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None
