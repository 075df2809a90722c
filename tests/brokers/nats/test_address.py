"""What a URL says, and what it may not."""

from pathlib import Path

import pytest

from twinwire.brokers.nats.address import Address, parse
from twinwire.errors import BadSettings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nats://localhost", Address(("localhost:4222",))),
        ("nats://a:1,b,[::1]:3/", Address(("a:1", "b:4222", "[::1]:3"))),
        ("nats://u:p%40%3A%2F@h", Address(("h:4222",), user="u", password="p@:/")),
        ("nats://u:@h", Address(("h:4222",), user="u")),
        ("nats://s3cret%2F@h,i", Address(("h:4222", "i:4222"), token="s3cret/")),
        ("tls://h", Address(("h:4222",), tls=True)),
        ("nats+tls://h?ca=/etc/ca.pem", Address(("h:4222",), tls=True, ca=Path("/etc/ca.pem"))),
        (
            "nats://h?hub=prod-1&replicas=3&credentials=/run/my.creds",
            Address(("h:4222",), "prod-1", 3, credentials=Path("/run/my.creds")),
        ),
    ],
)
def test_a_url_says_where_the_log_is(url: str, expected: Address) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "nats:", "nats://", "nats://:4222", "nats://h:0", "nats://h:65536", "nats://h:x",
        "nats://h,", "nats://h/path", "nats://h#x", "nats://a b", "nats://h?hub=", "nats://h?hub=a.b",
        "nats://h?replicas=2", "nats://h?replicas=x", "nats://h?credentials=", "nats://h?x=1",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match=r"^broker: .*: nats://USER:PASSWORD@HOST"):
        parse(url)


@pytest.mark.parametrize(
    "url", ["nats://u:hidden@h:x", "nats://hidden@h:x", "nats://u:hidden@h?a=b"]
)
def test_what_is_secret_is_not_told(url: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse(url)
    assert "hidden" not in str(caught.value)
