"""The decisions, without I/O: no asyncio, no sockets, no clock, no randomness.

An event's way through here: `event` → `log` → `lane`; a subscriber's: `feed` reads the log until
it is at the head and then stands in a lane. `session` is one WebSocket client's conversation.
"""
