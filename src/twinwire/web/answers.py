"""What the HTTP endpoints share: JSON answers, errors as JSON, and bodies of bounded size."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from twinwire.errors import BadFrame, CommandError, Refusal, TooLarge


def answer(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(
        msgspec.json.encode(value),
        status,
        {"Cache-Control": "no-store"},
        media_type="application/json",
    )


def refusal(code: int, message: str, status: int) -> Response:
    """An error as JSON, in the shape of the HTTP API: ``{"error":{"code":…,"message":…}}``."""
    return answer({"error": {"code": code, "message": message}}, status)


def later(why: str) -> Response:
    """503: ask again in a moment."""
    response = refusal(Refusal.NOT_AVAILABLE.code, why, 503)
    response.headers["Retry-After"] = "1"
    return response


def error_object(error: CommandError) -> dict[str, Any]:
    """The error as it stands in an answer."""
    return {"code": error.code, "message": error.message}


async def body_of(request: Request, limit: int) -> bytes:
    """The request's body, checked to be UTF-8.

    Raises `TooLarge` as soon as it is over `limit` bytes, and `BadFrame`.
    """
    what = "the request's body"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise TooLarge(f"{what} of {announced} bytes", "request_max_bytes", limit)
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > limit:
            raise TooLarge(what, "request_max_bytes", limit)
    body = bytes(parts)
    try:
        # What is published is passed on as it came; it must not break a WebSocket's text frames.
        body.decode()
    except UnicodeDecodeError as error:
        raise BadFrame(f"{what} is not UTF-8: {error}") from None
    return body
