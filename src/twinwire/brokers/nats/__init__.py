"""NATS JetStream: the log is a stream, shared by any number of nodes.

`nats://USER:PASSWORD@HOST:4222,HOST:4222?hub=NAME&replicas=3`. What each part decides:

- `address`: what a URL says.
- `message`: how events share a message of the stream. Pure.
- `epochs`: whether what the server has is still the log that this node knows. Pure.
- `book`: the newest event of each key, and how far the log may be trimmed. Pure.
- `link`: one connection, for as long as it lasts.
- `stream`: the streams on the server: made, checked, begun anew.
- `follow` and `reader`: the log as it grows, and parts of it.
- `keeper`: what of the book is on the server.
- `writer`: the appends that wait, in order, stored together.
- `broker`: one session after the other, and what the hub is told.

How it is laid out. An append is one message, and so are appends that wait at the same time: a
message is what costs, here and on the server, and not the event in it. So a position's `seq` is the
message's number in the stream times `message.SLOTS`, and the event's place in it. Only where an
append does not fit into one message, or has idempotency keys beside other events, it becomes
several, as an atomic batch.

The subject of the log has its epoch in it, and the stream takes no other. Who has not noticed that
there is a new epoch cannot write: nobody listens on that subject. That is what nodes agree by.
"""

from twinwire.brokers.nats.address import parse as parse
from twinwire.brokers.nats.broker import NatsBroker as NatsBroker
