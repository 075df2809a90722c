"""The official Centrifuge clients for Python and JavaScript, driven alike.

What they fire is in `seen`, with the same words for both: `connected`, `subscribed`, `publication`…
"""

import asyncio
import json
from abc import ABC, abstractmethod
from asyncio.subprocess import PIPE
from types import TracebackType
from typing import Any, ClassVar, Self

import centrifuge  # type: ignore[import-untyped]  # it brings none

from tests.conftest import Node
from tests.seen import Item, Seen


class SdkError(Exception):
    """The SDK says no; `code` is the server's, or 0 if it is the SDK's own."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(code, message)


class Sdk(ABC):
    """A client for one address. It is closed at the end of its block."""

    def __init__(self) -> None:
        self.seen = Seen()

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and wait until it is done."""

    @abstractmethod
    async def subscribe(self, channel: str, *, join_leave: bool = False) -> None:
        """Subscribe, and wait until it is done."""

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None: ...

    @abstractmethod
    async def publish(self, channel: str, data: Any) -> None: ...

    @abstractmethod
    async def rpc(self, method: str, data: Any) -> Any: ...

    @abstractmethod
    async def history(self, channel: str, since: tuple[int, str] | None = None) -> Item: ...

    @abstractmethod
    async def presence(self, channel: str) -> dict[str, Item]:
        """Who is there, by client id."""

    @abstractmethod
    async def presence_stats(self, channel: str) -> tuple[int, int]:
        """How many clients, and how many users."""

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    def data(self, channel: str) -> list[Any]:
        """The data of every publication of a subscription."""
        return [item["data"] for item in self.seen.of("publication", channel=channel)]

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class PythonSdk(Sdk):
    """`centrifuge-python`."""

    _opened: ClassVar[int] = 0

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client = centrifuge.Client(
            url, _Events(self.seen), min_reconnect_delay=0.05, max_reconnect_delay=0.2, proxy=None
        )

    async def open(self) -> None:
        PythonSdk._opened += 1

    async def close(self) -> None:
        await self._client.disconnect()
        PythonSdk._opened -= 1
        # Its closing is a task of its own, with its connection's. Whose they are they do not tell.
        while not PythonSdk._opened and (
            tasks := [t for t in asyncio.all_tasks() if _is_of(t, "centrifuge")]
        ):
            await asyncio.wait(tasks)

    async def connect(self) -> None:
        await self._client.connect()
        await self._client.ready()

    async def subscribe(self, channel: str, *, join_leave: bool = False) -> None:
        subscription = self._client.new_subscription(
            channel, _SubscriptionEvents(self.seen, channel), join_leave=join_leave
        )
        await subscription.subscribe()
        await subscription.ready()

    async def unsubscribe(self, channel: str) -> None:
        subscription = self._client.get_subscription(channel)
        assert subscription is not None
        await subscription.unsubscribe()
        self._client.remove_subscription(subscription)

    async def publish(self, channel: str, data: Any) -> None:
        await _said(self._client.publish(channel, data))

    async def rpc(self, method: str, data: Any) -> Any:
        return (await _said(self._client.rpc(method, data))).data

    async def history(self, channel: str, since: tuple[int, str] | None = None) -> Item:
        position = centrifuge.StreamPosition(*since) if since else None
        past = await _said(self._client.history(channel, limit=-1, since=position))
        return {
            "publications": [{"data": p.data, "offset": p.offset} for p in past.publications],
            "offset": past.offset,
            "epoch": past.epoch,
        }

    async def presence(self, channel: str) -> dict[str, Item]:
        found = await _said(self._client.presence(channel))
        return {
            client: {"client": info.client, "user": info.user, "info": info.conn_info}
            for client, info in found.clients.items()
        }

    async def presence_stats(self, channel: str) -> tuple[int, int]:
        found = await _said(self._client.presence_stats(channel))
        return found.num_clients, found.num_users


async def _said(awaitable: Any) -> Any:
    try:
        return await awaitable
    except centrifuge.ReplyError as error:
        raise SdkError(error.code, error.message) from None


def _is_of(task: asyncio.Task[Any], package: str) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and f"/{package}/" in code.co_filename


class _Events(centrifuge.ClientEventHandler):  # type: ignore[misc]  # it is untyped
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def on_connecting(self, ctx: centrifuge.ConnectingContext) -> None:
        self._seen.add({"on": "connecting", "code": ctx.code, "reason": ctx.reason})

    async def on_connected(self, ctx: centrifuge.ConnectedContext) -> None:
        self._seen.add({"on": "connected", "client": ctx.client})

    async def on_disconnected(self, ctx: centrifuge.DisconnectedContext) -> None:
        self._seen.add({"on": "disconnected", "code": ctx.code, "reason": ctx.reason})

    async def on_error(self, ctx: centrifuge.ErrorContext) -> None:
        self._seen.add({"on": "error", "error": str(ctx.error)})


class _SubscriptionEvents(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]  # as above
    def __init__(self, seen: Seen, channel: str) -> None:
        self._seen = seen
        self._channel = channel

    def _tell(self, kind: str, **fields: Any) -> None:
        self._seen.add({"on": kind, "channel": self._channel, **fields})

    async def on_subscribing(self, ctx: centrifuge.SubscribingContext) -> None:
        self._tell("subscribing", code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx: centrifuge.SubscribedContext) -> None:
        position = ctx.stream_position
        assert position is not None
        self._tell(
            "subscribed",
            was_recovering=ctx.was_recovering,
            recovered=ctx.recovered,
            offset=position.offset,
            epoch=position.epoch,
        )

    async def on_unsubscribed(self, ctx: centrifuge.UnsubscribedContext) -> None:
        self._tell("unsubscribed", code=ctx.code, reason=ctx.reason)

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        user = ctx.pub.info.client if ctx.pub.info else None
        self._tell("publication", data=ctx.pub.data, offset=ctx.pub.offset, user=user)

    async def on_join(self, ctx: centrifuge.JoinContext) -> None:
        self._tell("join", user=ctx.info.user, client=ctx.info.client)

    async def on_leave(self, ctx: centrifuge.LeaveContext) -> None:
        self._tell("leave", user=ctx.info.user, client=ctx.info.client)

    async def on_error(self, ctx: centrifuge.SubscriptionErrorContext) -> None:
        self._tell("error", error=str(ctx.error))


class NodeSdk(Sdk):
    """npm `centrifuge` in Node, in a process of its own."""

    def __init__(self, url: str, node: Node) -> None:
        super().__init__()
        self._argv = [
            node.path,
            str(node.js / "driver.mjs"),
            url,
            json.dumps({"minReconnectDelay": 50, "maxReconnectDelay": 200}),
        ]
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._id = 0

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._argv, stdin=PIPE, stdout=PIPE)
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._reading
        assert await self._process.wait() == 0

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "on" in said:
                self.seen.add(said)
                continue
            answer = self._answers.pop(said["id"])
            if "error" in said:
                answer.set_exception(SdkError(said["error"]["code"], said["error"]["message"]))
            else:
                answer.set_result(said["result"])
        for answer in self._answers.values():
            answer.set_exception(AssertionError("the driver has ended"))

    async def _do(self, action: str, *args: Any) -> Any:
        assert self._process.stdin is not None
        self._id += 1
        answer = self._answers[self._id] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": self._id, "do": action, "args": args})
        self._process.stdin.write(line.encode() + b"\n")
        return await answer

    async def connect(self) -> None:
        await self._do("connect")

    async def subscribe(self, channel: str, *, join_leave: bool = False) -> None:
        await self._do("subscribe", channel, {"joinLeave": join_leave})

    async def unsubscribe(self, channel: str) -> None:
        await self._do("unsubscribe", channel)

    async def publish(self, channel: str, data: Any) -> None:
        await self._do("publish", channel, data)

    async def rpc(self, method: str, data: Any) -> Any:
        return await self._do("rpc", method, data)

    async def history(self, channel: str, since: tuple[int, str] | None = None) -> Item:
        options: Item = {"limit": -1}
        if since is not None:
            options["since"] = {"offset": since[0], "epoch": since[1]}
        found: Item = await self._do("history", channel, options)
        return {
            "publications": [
                {"data": p["data"], "offset": p["offset"]} for p in found["publications"]
            ],
            "offset": found["offset"],
            "epoch": found["epoch"],
        }

    async def presence(self, channel: str) -> dict[str, Item]:
        found = await self._do("presence", channel)
        return {
            client: {"client": said["client"], "user": said["user"], "info": said.get("connInfo")}
            for client, said in found["clients"].items()
        }

    async def presence_stats(self, channel: str) -> tuple[int, int]:
        found = await self._do("presence_stats", channel)
        return found["numClients"], found["numUsers"]
