"""The ASGI application: streams, commands and the HTTP API over one hub."""
