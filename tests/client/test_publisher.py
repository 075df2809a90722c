"""Publishing: in order, once, and never silently lost."""

import asyncio

import msgspec
import pytest

from tests.client.odd_server import (
    Act,
    OddServer,
    after,
    answer,
    events,
    hang_up,
    only_up_to,
    publish,
)
from tests.servers import unused_port
from twinwire.client import InDoubt, Publisher, Refused, Unreachable
from twinwire.client.publisher import BATCH_BYTES, BATCH_EVENTS, WAITING_EVENTS
from twinwire.core.event import Position
from twinwire.errors import BadChannel, BadInput, CommandError

Positions = list[Position | BaseException]


async def publish_all(publisher: Publisher, *data: object) -> Positions:
    """Publish these all at once; what became of each."""
    return await asyncio.gather(
        *(publisher.publish("a", each) for each in data), return_exceptions=True
    )


async def test_an_event_is_published_at_the_position_that_is_returned() -> None:
    async with OddServer(publish) as server, Publisher(server.url) as publisher:
        assert await publisher.publish("a", 5) == Position(7, 5)
        assert publisher.published == 1


async def test_what_is_given_while_a_batch_is_under_way_is_the_next_batch() -> None:
    gate = asyncio.Event()
    async with OddServer(after(gate, publish), publish) as server:
        async with Publisher(server.url) as publisher:
            await publisher.send("a", 0)
            await server.arrived(1)
            for n in range(1, 6):
                await publisher.send("a", n)
            gate.set()
        assert [events(body) for body in server.bodies] == [[0], [1, 2, 3, 4, 5]]


async def test_a_batch_is_bounded_in_events_and_bytes() -> None:
    async with OddServer(publish) as server:
        async with Publisher(server.url) as publisher:
            for n in range(3 * BATCH_EVENTS):
                await publisher.send("a", n)
            for _ in range(10):
                await publisher.send("a", msgspec.Raw(b"1" + b" " * (BATCH_BYTES // 3)))
        counts = [len(events(body)) for body in server.bodies]
        assert max(counts) <= BATCH_EVENTS
        assert max(map(len, server.bodies)) <= BATCH_BYTES + BATCH_EVENTS + 100
        assert publisher.published == sum(counts) == 3 * BATCH_EVENTS + 10


async def test_an_event_over_the_bound_of_a_batch_goes_alone() -> None:
    async with OddServer(publish) as server:
        async with Publisher(server.url) as publisher:
            for data in (b"1", b"2" + b" " * BATCH_BYTES, b"3"):
                await publisher.send("a", msgspec.Raw(data))
        assert [data for body in server.bodies for data in events(body)] == [1, 2, 3]


async def test_sending_waits_for_room() -> None:
    gate = asyncio.Event()
    async with OddServer(after(gate, publish), publish) as server:
        publisher = Publisher(server.url)

        async def send() -> None:
            for n in range(WAITING_EVENTS + BATCH_EVENTS + 1):
                await publisher.send("a", n)

        async with publisher:
            sending = asyncio.create_task(send())
            await server.arrived(1)
            done, _ = await asyncio.wait([sending], timeout=0.2)
            assert not done
            gate.set()
            await sending


@pytest.mark.parametrize("status", [429, 503])
async def test_what_the_server_has_put_off_is_sent_again_in_order(status: int) -> None:
    put_off = answer(status, Retry_After="0")
    async with OddServer(publish, put_off, put_off, publish) as server:
        async with Publisher(server.url) as publisher:
            await publisher.publish("a", 0)
            assert await publish_all(publisher, 1, 2) == [Position(7, 1), Position(7, 2)]
        assert [events(body) for body in server.bodies] == [[0], [1, 2], [1, 2], [1, 2]]


async def test_what_may_have_arrived_is_not_sent_again() -> None:
    gate = asyncio.Event()
    async with OddServer(after(gate, hang_up), publish) as server:
        async with Publisher(server.url) as publisher:
            first = asyncio.create_task(publish_all(publisher, 1, 2))
            await server.arrived(1)
            behind = asyncio.create_task(publisher.publish("a", 3))
            await asyncio.sleep(0)
            gate.set()
            lost = await first
            assert [str(error) for error in lost] == [str(lost[0])] * 2
            assert isinstance(lost[0], InDoubt)
            assert lost[0].count == 2
            with pytest.raises(Unreachable, match="not sent"):
                await behind
            assert await publisher.publish("a", 4) == Position(7, 4)
        assert [events(body) for body in server.bodies] == [[1, 2], [4]]


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (502, b""), (504, b""), (200, b"<html>"), (200, b"{}")]
)
async def test_an_answer_that_tells_nothing_leaves_events_in_doubt(
    status: int, body: bytes
) -> None:
    async with OddServer(answer(status, body)) as server, Publisher(server.url) as publisher:
        with pytest.raises(InDoubt):
            await publisher.publish("a", 1)


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, b'{"error":{"message":"no key"}}', r"the server refuses: no key \(401\)"),
        (404, b"", r"not found \(404\)"),
        (418, b"{}", r"\(418\)"),
        (799, b"[]", r"\(799\)"),
        (308, b"", "it redirects to https://h/api/batch"),
    ],
)
async def test_a_refused_request_is_said_to_be(status: int, body: bytes, sentence: str) -> None:
    moved = {"Location": "https://h/api/batch"} if status == 308 else {}
    async with (
        OddServer(answer(status, body, **moved)) as server,
        Publisher(server.url) as publisher,
    ):
        with pytest.raises(Refused, match=sentence):
            await publisher.publish("a", 1)


async def test_a_refused_event_fails_alone() -> None:
    async with OddServer(publish) as server, Publisher(server.url) as publisher:
        first, bad, last = await publish_all(publisher, 1, "bad", 3)
        assert (first, last) == (Position(7, 1), Position(7, 3))
        assert isinstance(bad, CommandError)
        assert str(bad) == "bad event (107)"


async def test_a_batch_too_large_for_the_server_is_halved_and_stays_in_order() -> None:
    async with OddServer(only_up_to(400)) as server:
        async with Publisher(server.url) as publisher:
            for n in range(40):
                await publisher.send("a", n)
        taken = [data for body in server.bodies if len(body) <= 400 for data in events(body)]
        assert taken == list(range(40))


async def test_an_event_too_large_for_the_server_fails_alone() -> None:
    async with OddServer(only_up_to(400)) as server, Publisher(server.url) as publisher:
        first, large, last = await publish_all(publisher, 1, "x" * 1000, 3)
        assert (first, last) == (Position(7, 1), Position(7, 3))
        assert isinstance(large, CommandError)
        assert large.message == "too large"


async def test_a_server_that_never_answered_is_not_waited_for() -> None:
    async with Publisher(f"http://127.0.0.1:{unused_port()}") as publisher:
        with pytest.raises(Unreachable, match="connection refused"):
            await publisher.publish("a", 1)


async def test_one_that_did_is_tried_again_for_as_long_as_was_said() -> None:
    async with OddServer(publish, answer(503)) as server:
        async with Publisher(server.url, patience=0.3) as publisher:
            await publisher.publish("a", 1)
            with pytest.raises(Unreachable, match="service unavailable"):
                await publisher.publish("a", 2)
        assert len(server.bodies) > 2


async def test_a_failure_of_what_was_sent_is_raised_by_the_next_call() -> None:
    async with OddServer(publish) as server, Publisher(server.url) as publisher:
        await publisher.send("a", "bad")
        with pytest.raises(CommandError, match="bad event"):
            await publisher.flush()
        await publisher.flush()
        await publisher.send("a", 1)


async def test_or_at_the_end_of_the_block() -> None:
    async with OddServer(publish) as server:
        publisher = Publisher(server.url)
        with pytest.raises(CommandError, match="bad event"):
            async with publisher:
                await publisher.send("a", "bad")


async def test_leaving_by_an_exception_waits_for_nothing() -> None:
    gate = asyncio.Event()
    async with OddServer(after(gate, publish)) as server:
        publisher = Publisher(server.url)

        async def fail() -> None:
            async with publisher:
                await publisher.send("a", 1)
                await server.arrived(1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert publisher.published == 0


async def test_who_gives_up_waiting_does_not_disturb_the_others() -> None:
    gate = asyncio.Event()
    async with OddServer(after(gate, publish)) as server, Publisher(server.url) as publisher:
        one = asyncio.create_task(publisher.publish("a", 1))
        two = asyncio.create_task(publisher.publish("a", 2))
        await server.arrived(1)
        one.cancel()
        gate.set()
        assert await two == Position(7, 2)


async def test_a_closed_publisher_says_so() -> None:
    publisher = Publisher("http://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(Unreachable, match="use 'async with'"):
            await publisher.publish("a", 1)
        async with publisher:
            pass


async def test_who_still_waits_when_it_is_closed_hears_of_it() -> None:
    gate = asyncio.Event()
    waiting: list[asyncio.Task[Position]] = []

    async def fail(server: OddServer) -> None:
        async with Publisher(server.url) as publisher:
            waiting.append(asyncio.create_task(publisher.publish("a", 1)))
            await server.arrived(1)
            waiting.append(asyncio.create_task(publisher.publish("a", 2)))
            await asyncio.sleep(0)
            raise ZeroDivisionError

    async with OddServer(after(gate, publish)) as server:
        with pytest.raises(ZeroDivisionError):
            await fail(server)
        under_way, behind = waiting
        with pytest.raises(InDoubt):
            await under_way
        with pytest.raises(Unreachable):
            await behind


async def test_what_cannot_be_meant_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BadInput):
        Publisher("h")
    async with OddServer(publish) as server, Publisher(server.url) as publisher:
        with pytest.raises(BadChannel):
            await publisher.publish("a.*", 1)
        with pytest.raises(BadChannel):
            await publisher.send("", 1)
        assert server.bodies == []


# Idempotent


def keys(body: bytes) -> list[str]:
    commands = msgspec.json.decode(body)["commands"]
    return [command["publish"]["idempotency_key"] for command in commands]


FAILED = answer(200, b'{"replies":[{"error":{"code":100,"message":"the broker is away"}}]}')


@pytest.mark.parametrize(
    "act",
    [hang_up, answer(500), answer(504), FAILED],
    ids=["no answer", "500", "504", "broker away"],
)
async def test_an_idempotent_publisher_sends_again_what_may_have_arrived(act: Act) -> None:
    async with OddServer(publish, act, act, publish) as server:
        async with Publisher(server.url, idempotent=True) as publisher:
            await publisher.publish("a", 1)
            assert await publisher.publish("a", 2) == Position(7, 2)
        assert [events(body) for body in server.bodies] == [[1], [2], [2], [2]]
        first, *same = [keys(body) for body in server.bodies]
        assert same[0] == same[1] == same[2] != first


async def test_it_is_in_doubt_when_its_patience_ends() -> None:
    async with (
        OddServer(publish, hang_up) as server,
        Publisher(server.url, idempotent=True, patience=0.3) as publisher,
    ):
        await publisher.publish("a", 1)
        with pytest.raises(InDoubt):
            await publisher.publish("a", 2)


async def test_each_event_has_a_key_of_its_own_and_publishers_share_none() -> None:
    async with OddServer(publish) as server:
        for _ in range(2):
            async with Publisher(server.url, idempotent=True) as publisher:
                for n in range(5):
                    await publisher.send("a", n)
        given = [key for body in server.bodies for key in keys(body)]
        assert len(set(given)) == len(given) == 10


async def test_an_event_that_a_servers_broker_failed_with_is_in_doubt() -> None:
    async with OddServer(FAILED) as server, Publisher(server.url) as publisher:
        with pytest.raises(InDoubt, match="the broker is away"):
            await publisher.publish("a", 1)
