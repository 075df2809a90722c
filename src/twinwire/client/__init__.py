"""The Python client: publishing over HTTP, subscribing over Server-Sent Events or WebSocket.

::

    async with Publisher("http://127.0.0.1:8000") as publisher:
        await publisher.publish("prices.EURUSD", {"bid": 1.1}, key="EURUSD")

    async for item in subscribe("http://127.0.0.1:8000", ["prices.*"]):
        match item:
            case Event():
                print(item.channel, item.json())
            case Gap():
                print("missed", item.begin, "to", item.end)

What is decided (`sse`, `websocket`, `commands`, `backoff`) does no I/O; `over_http` and
`over_websocket` do nothing else.
"""

from twinwire.client.errors import InDoubt, MissingExtra, Refused, Unreachable
from twinwire.client.items import EARLIEST, Connected, Disconnected, Item
from twinwire.client.publisher import Publisher
from twinwire.client.subscription import Subscription, subscribe
from twinwire.core.event import Event, Position
from twinwire.core.feed import Gap, Mode, Why

__all__ = [
    "EARLIEST",
    "Connected",
    "Disconnected",
    "Event",
    "Gap",
    "InDoubt",
    "Item",
    "MissingExtra",
    "Mode",
    "Position",
    "Publisher",
    "Refused",
    "Subscription",
    "Unreachable",
    "Why",
    "subscribe",
]
