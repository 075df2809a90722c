"""Commands: what reaches a handler, and what its caller is told."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Raw
from pydantic import BaseModel, Field

from twinwire.commands import Caller, Commands
from twinwire.errors import CommandError, TwinwireError

CALLER = Caller("c-1", "7")


class Model(BaseModel):
    symbol: str
    amount: Annotated[int, Field(gt=0)]


class Struct(msgspec.Struct):
    symbol: str
    amount: Annotated[int, msgspec.Meta(gt=0)]


@dataclass
class Data:
    symbol: str
    amount: int


async def call(handler: Callable[..., Any], data: bytes = b"") -> Any:
    commands = Commands()
    commands.add("it", handler)
    answer = await commands.call("it", Raw(data), CALLER)
    assert isinstance(answer, Raw)
    return msgspec.json.decode(answer)


async def refused(handler: Callable[..., Any], data: bytes = b"") -> tuple[int, str, bool]:
    with pytest.raises(CommandError) as caught:
        await call(handler, data)
    return caught.value.code, caught.value.message, caught.value.temporary


async def model(order: Model) -> Any:
    assert isinstance(order, Model)
    return [order.symbol, order.amount]


async def struct(order: Struct) -> Any:
    assert isinstance(order, Struct)
    return [order.symbol, order.amount]


async def data(order: Data) -> Any:
    assert isinstance(order, Data)
    return [order.symbol, order.amount]


async def several(symbol: str, amount: int, note: str = "none") -> Any:
    return [symbol, amount, note]


async def by_keyword(*, symbol: str, amount: int) -> Any:
    return [symbol, amount]


async def untyped(value):  # type: ignore[no-untyped-def]  # what many will write
    return value


async def optional(value: int | None = None) -> Any:
    return value


async def nothing() -> str:
    return "done"


@pytest.mark.parametrize(
    ("handler", "sent", "result"),
    [
        (model, b'{"symbol":"A","amount":2}', ["A", 2]),
        (struct, b'{"symbol":"A","amount":2}', ["A", 2]),
        (data, b'{"symbol":"A","amount":2}', ["A", 2]),
        (several, b'{"symbol":"A","amount":2}', ["A", 2, "none"]),
        (several, b'{"amount":2,"note":"x","symbol":"A"}', ["A", 2, "x"]),
        (several, b' ["A",2]', ["A", 2, "none"]),
        (several, b'["A",2,"x"]', ["A", 2, "x"]),
        (by_keyword, b'["A",2]', ["A", 2]),
        (untyped, b'{"a":[1,null]}', {"a": [1, None]}),
        (untyped, b"", None),
        (optional, b"", None),
        (optional, b"3", 3),
        (nothing, b"", "done"),
        (nothing, b"null", "done"),
        (nothing, b"{}", "done"),
        (nothing, b"[]", "done"),
    ],
)
async def test_arguments_arrive_as_the_handler_declares_them(
    handler: Callable[..., Any], sent: bytes, result: Any
) -> None:
    assert await call(handler, sent) == result


@pytest.mark.parametrize(
    ("handler", "sent"),
    [
        (model, b'{"symbol":"A","amount":0}'),
        (model, b'{"symbol":"A"}'),
        (model, b"[]"),
        (model, b""),
        (struct, b'{"symbol":"A","amount":0}'),
        (struct, b'{"symbol":7,"amount":1}'),
        (struct, b""),
        (data, b'{"symbol":"A","amount":"2"}'),
        (several, b'{"symbol":"A"}'),
        (several, b'{"symbol":"A","amount":2,"other":1}'),
        (several, b'["A"]'),
        (several, b'["A",2,"x","more"]'),
        (several, b'"A"'),
        (several, b""),
        (untyped, b'"\xff"'),
        (untyped, b"{"),
        (untyped, b"[" * 100_000),
        (optional, b'"3"'),
        (nothing, b"1"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_before_the_call(
    handler: Callable[..., Any], sent: bytes
) -> None:
    called = []

    @functools.wraps(handler)
    async def spy(*args: Any, **kwargs: Any) -> Any:
        called.append((args, kwargs))
        return await handler(*args, **kwargs)

    code, message, temporary = await refused(spy, sent)
    assert (code, temporary) == (107, False)
    assert message.startswith("bad request: ")
    assert not called


async def test_the_caller_is_given_to_who_asks_for_it_and_cannot_be_sent() -> None:
    async def one(value: int, caller: Caller) -> Any:
        return [value, *caller]

    async def two(caller: Caller, a: int, b: int) -> Any:
        return [a, b, *caller]

    async def only(caller: Caller) -> Any:
        return list(caller)

    assert await call(one, b"5") == [5, "c-1", "7"]
    assert await call(two, b"[1,2]") == [1, 2, "c-1", "7"]
    assert await call(only) == ["c-1", "7"]
    code, _, _ = await refused(two, b'{"a":1,"b":2,"caller":["c-2",""]}')
    assert code == 107


async def test_what_a_handler_returns_is_written_as_json() -> None:
    async def give() -> Any:
        return {
            "model": Model(symbol="A", amount=1),
            "struct": Struct("B", 2),
            "data": Data("C", 3),
            "raw": Raw(b'{"n":1}'),
        }

    assert await call(give) == {
        "model": {"symbol": "A", "amount": 1},
        "struct": {"symbol": "B", "amount": 2},
        "data": {"symbol": "C", "amount": 3},
        "raw": {"n": 1},
    }


async def test_a_plain_function_runs_beside_the_loop() -> None:
    loop = asyncio.get_running_loop()
    passed = asyncio.Event()

    def blocking() -> bool:
        # It could not get an answer from the loop if it held it.
        asyncio.run_coroutine_threadsafe(_set(passed), loop).result(10)
        return threading.current_thread() is threading.main_thread()

    assert await call(blocking) is False
    assert passed.is_set()


async def _set(event: asyncio.Event) -> None:
    event.set()


async def test_a_plain_function_may_return_an_awaitable() -> None:
    def indirect() -> Awaitable[str]:
        return nothing()

    assert await call(indirect) == "done"


async def test_a_command_error_reaches_the_caller_as_it_is() -> None:
    async def fail() -> None:
        raise CommandError(1234, "no such order", temporary=True)

    assert await refused(fail) == (1234, "no such order", True)


@pytest.mark.parametrize("error", [ValueError("secret"), TwinwireError("secret"), KeyError("x")])
async def test_any_other_error_is_an_internal_one_and_keeps_its_details_to_the_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    assert await refused(fail) == (100, "internal server error", True)
    assert "command 'it' failed" in caplog.text
    assert str(error) in caplog.text


async def test_a_result_that_cannot_be_written_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def strange() -> object:
        return object()

    assert (await refused(strange))[0] == 100
    assert "cannot be written as JSON" in caplog.text


async def test_a_type_whose_own_code_fails_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        @classmethod
        def model_validate(cls, value: Any) -> Any:
            raise KeyError(value)

    async def take(value: Broken) -> None:
        raise AssertionError

    assert (await refused(take, b"1"))[0] == 100
    assert "could not be read" in caplog.text


async def test_a_cancelled_call_stays_cancelled() -> None:
    begun = asyncio.Event()
    ended = []

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    task = asyncio.create_task(call(hang))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]


async def test_a_cancellation_inside_the_handler_is_the_handlers_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        inner = asyncio.create_task(asyncio.Event().wait())
        inner.cancel()
        await inner

    assert (await refused(fail))[0] == 100


async def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match=r"method not found: 'order.place' \(104\)"):
        await Commands().call("order.place", Raw(b""), CALLER)


def test_a_name_is_taken_once() -> None:
    commands = Commands()
    commands.add("it", nothing)
    with pytest.raises(ValueError, match="there is already a command 'it'"):
        commands.add("it", several)


class Unreadable:
    pass


def unreadable(value: Unreadable) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    "handler",
    [lambda *values: None, lambda **values: None, lambda value, /: None, unreadable],
    ids=["places", "names", "positional", "type"],
)
def test_a_handler_that_json_cannot_call_is_refused_when_it_is_added(
    handler: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError):
        Commands().add("it", handler)
