"""Where a server is."""

import pytest

from twinwire.client.address import Address
from twinwire.errors import BadInput


@pytest.mark.parametrize(
    ("url", "http", "ws", "secure"),
    [
        ("http://h", "http://h/sse", "ws://h/sse", False),
        ("http://h:8000/", "http://h:8000/sse", "ws://h:8000/sse", False),
        ("https://h/live", "https://h/live/sse", "wss://h/live/sse", True),
        ("ws://h:1", "http://h:1/sse", "ws://h:1/sse", False),
        ("wss://h/live/", "https://h/live/sse", "wss://h/live/sse", True),
        ("http://[::1]:80", "http://[::1]:80/sse", "ws://[::1]:80/sse", False),
        ("HTTP://h?x=1#y", "http://h/sse", "ws://h/sse", False),
    ],
)
def test_a_server_has_an_address_for_each_protocol(
    url: str, http: str, ws: str, secure: bool
) -> None:
    address = Address(url)
    assert (address.http("/sse"), address.ws("/sse"), address.secure) == (http, ws, secure)


@pytest.mark.parametrize(
    "url",
    ["", "h", "h:8000", "127.0.0.1:8000", "ftp://h", "http://", "http://h:x", "http://h:99999",
     "http://h:0", "http://[::1", "//h", "http:///path"],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_an_example_given(url: str) -> None:
    with pytest.raises(BadInput, match=r"looks like http://127.0.0.1:8000"):
        Address(url)
