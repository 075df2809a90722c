"""Commands: calls from clients with an answer, with typed arguments checked before the call.

A handler with one argument gets the whole of what the client sent, converted to the argument's
type. One with several gets them by name from a JSON object, or by place from an array. An argument
annotated `Caller` is not sent by the client: it tells who calls.

A handler that is an async generator answers with a stream: each `yield` is one message of it, and
waits until the client's socket has room. When the client goes away the generator is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from twinwire.errors import CommandError, Refusal

_log = logging.getLogger("twinwire")

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Caller(NamedTuple):
    """Who calls a command: the connection's id, and the user it belongs to ("" for nobody)."""

    client: str
    user: str = ""


class Commands:
    """The commands of one hub, by name."""

    def __init__(self) -> None:
        self._commands: dict[str, _Command] = {}

    def add(self, name: str, handler: Callable[..., Any]) -> None:
        """Register `handler`: a function, coroutine function or async generator.

        Raises `TypeError` if its arguments cannot be filled from JSON, and `ValueError` for a name
        that is taken.
        """
        if name in self._commands:
            raise ValueError(f"there is already a command {name!r}")
        self._commands[name] = _Command(handler)

    async def call(self, name: str, data: Raw, caller: Caller) -> Raw | AsyncGenerator[Raw]:
        """The answer of the command, as JSON, or the stream of them. Raises `CommandError`, and so
        does the stream; nothing else."""
        command = self._commands.get(name)
        if command is None:
            raise Refusal.METHOD_NOT_FOUND.error(f"method not found: {name[:64]!r}")
        try:
            arguments = command.arguments(bytes(data), caller)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise Refusal.BAD_REQUEST.error(f"bad request: {error}") from None
        except Exception:  # noqa: BLE001 (types read themselves with the application's code)
            _log.exception("the arguments of command %r could not be read", name)
            raise Refusal.INTERNAL.error() from None
        if command.streams:
            return _stream(name, command.stream(arguments))
        try:
            result = await command.run(arguments)
            return Raw(msgspec.json.encode(result, enc_hook=_to_json))
        except CommandError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # It is not this call that was cancelled but something that the handler waited for.
            _log.exception("command %r failed", name)
        except Exception:  # noqa: BLE001 (a handler is the application's, and may raise anything)
            _log.exception("command %r failed", name)
        raise Refusal.INTERNAL.error()


class _Command:
    def __init__(self, handler: Callable[..., Any]) -> None:
        self._handler = handler
        self.streams = inspect.isasyncgenfunction(handler)
        hints = typing.get_type_hints(handler)
        self._fields: list[tuple[str, Any, Any]] = []
        self._caller: str | None = None
        for name, parameter in inspect.signature(handler).parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"a command cannot take {parameter}: its arguments come by name")
            if hints.get(name) is Caller:
                self._caller = name
            else:
                self._fields.append((name, _readable(hints.get(name, Any)), parameter.default))
        self._names = [name for name, _, _ in self._fields]
        self._by_name: Callable[[bytes], Any] | None = None
        if len(self._fields) == 1:
            self._whole = _decoder(self._fields[0][1])
        elif self._fields:
            fields = [
                (name, hint) if default is inspect.Parameter.empty else (name, hint, default)
                for name, hint, default in self._fields
            ]
            self._by_name = _decoder(
                msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True)
            )
            self._by_place = _decoder(
                msgspec.defstruct("Arguments", fields, array_like=True, forbid_unknown_fields=True)
            )

    def arguments(self, data: bytes, caller: Caller) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if len(self._fields) == 1:
            name, _, default = self._fields[0]
            if data or default is inspect.Parameter.empty:
                values[name] = self._whole(data or b"null")
        elif self._by_name is not None:
            data = data or b"{}"
            decode = self._by_place if data.lstrip()[:1] == b"[" else self._by_name
            found = decode(data)
            values = {name: getattr(found, name) for name in self._names}
        elif data not in (b"", b"null", b"{}", b"[]"):
            raise ValueError("this command takes no arguments")
        if self._caller is not None:
            values[self._caller] = caller
        return values

    def stream(self, arguments: dict[str, Any]) -> AsyncGenerator[Any]:
        items: AsyncGenerator[Any] = self._handler(**arguments)
        return items

    async def run(self, arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self._handler):
            return await self._handler(**arguments)
        # A plain function may block; it must not hold the loop.
        result = await asyncio.to_thread(self._handler, **arguments)
        return await result if isinstance(result, Awaitable) else result


def _readable(hint: Any) -> Any:
    """`object` asks for nothing in particular, as `Any` does."""
    return Any if hint is object else hint


async def _stream(name: str, items: AsyncGenerator[Any]) -> AsyncGenerator[Raw]:
    async with contextlib.aclosing(items):
        try:
            async for item in items:
                yield Raw(msgspec.json.encode(item, enc_hook=_to_json))
        except CommandError:
            raise
        except Exception:  # noqa: BLE001 (as for a call)
            _log.exception("command %r failed", name)
            raise Refusal.INTERNAL.error() from None


def _decoder(type: Any) -> Callable[[bytes], Any]:
    known = msgspec.inspect.type_info(type)
    if isinstance(known, msgspec.inspect.CustomType) and not hasattr(type, "model_validate"):
        raise TypeError(f"{type} cannot be read from JSON")
    return msgspec.json.Decoder(type, dec_hook=_from_json).decode


def _from_json(type: Any, value: Any) -> Any:
    """Types that msgspec does not know but that can read themselves: Pydantic models."""
    validate = getattr(type, "model_validate", None)
    if validate is None:
        raise NotImplementedError(f"{type} cannot be read from JSON")
    return validate(value)


def _to_json(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise NotImplementedError(f"{value.__class__.__name__} cannot be written as JSON")
    return dump(mode="json")
