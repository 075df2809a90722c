"""What a URL says, and what is said of one that is wrong."""

import pytest

from tests import ROOT
from twinwire.brokers.redis.address import SCHEMES, Host, parse
from twinwire.errors import BadSettings

CERT = ROOT / "tests" / "server" / "tls" / "cert.pem"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("redis://", ("localhost", 6379)),
        ("redis://a", ("a", 6379)),
        ("valkey://a:1", ("a", 1)),
        ("rediss://a.example.org:2/", ("a.example.org", 2)),
        ("redis://[::1]", ("::1", 6379)),
        ("valkeys://u:p@[fe80::1]:7/3", ("fe80::1", 7)),
    ],
)
def test_a_server_has_a_host_and_a_port(url: str, host: tuple[str, int]) -> None:
    assert parse(url).hosts == (host,)


def test_the_parts_of_a_url() -> None:
    address = parse("redis://us%40er:pa%2Fss%25:w@host:1/7?hub=my-hub.1")
    assert (address.user, address.password) == ("us@er", "pa/ss%:w")
    assert (address.database, address.hub, address.service) == (7, "my-hub.1", "")
    assert address.tls is None
    assert parse("redis://:secret@host").password == "secret"
    assert parse("redis://user@host").user == "user"
    assert parse("redis://a").hub == "twinwire"


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_each_scheme_says_whether_it_is_over_tls(scheme: str) -> None:
    address = parse(f"{scheme}://a/x" if "sentinel" in scheme else f"{scheme}://a")
    assert (address.tls is not None) == (scheme.split("+")[0] in ("rediss", "valkeys"))


def test_sentinels_are_listed_with_what_they_call_the_primary() -> None:
    address = parse(
        "redis+sentinel://u:p@one,two:1,[::1]:2/my%20main/3"
        "?sentinel_username=su&sentinel_password=sp&hub=h"
    )
    assert address.hosts == (Host("one", 26379), Host("two", 1), Host("::1", 2))
    assert (address.service, address.database) == ("my main", 3)
    assert (address.user, address.password) == ("u", "p")
    assert (address.sentinel_user, address.sentinel_password) == ("su", "sp")
    assert parse("redis+sentinel://one/main").database == 0


def test_certificates_are_named_as_parameters() -> None:
    tls = parse(f"rediss://a?ssl_ca_certs={CERT}").tls
    assert tls is not None
    assert tls.check_hostname
    tls = parse("rediss://a?ssl_check_hostname=false").tls
    assert tls is not None
    assert not tls.check_hostname
    assert tls.verify_mode
    tls = parse("rediss://a?ssl_cert_reqs=none").tls
    assert tls is not None
    assert not tls.verify_mode


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://a:b:c", "needs host:port"),
        ("redis://a:99999", "needs host:port"),
        ("redis://a b", "needs host:port"),
        ("redis://a/x", "the number of a database"),
        ("redis://a/1/2", "redis://user:password@host:port/database"),
        ("redis://a,b", "redis://user:password@host:port/database"),
        ("redis+sentinel://a", "the name of the service"),
        ("redis+sentinel://a/", "the name of the service"),
        ("redis+sentinel://a/x/y/z", "the name of the service"),
        ("redis+sentinel://a/x/y", "the number of a database"),
        ("redis://a?hub=", "hub should be"),
        ("redis://a?hub={x}", "hub should be"),
        ("redis://a?db=1", "knows no parameter 'db'"),
        ("rediss://a?ssl_cert_reqs=some", "ssl_cert_reqs should be required or none"),
        ("rediss://a?ssl_ca_certs=nowhere", "cannot be used: no such file"),
        ("http://a", "begins with redis://"),
    ],
)
def test_a_wrong_url_is_explained(url: str, says: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse(url)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@a",
        f"redis+sentinel://u:{SECRET}@a/main?sentinel_password={SECRET}",
    ],
)
def test_an_address_does_not_show_what_is_secret(url: str) -> None:
    address = parse(url)
    assert SECRET not in str(address) + repr(address)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@a",
        f"redis://:{SECRET}?x@a",
        f"redis://:x/{SECRET}@a:b",
        f"redis://:x?{SECRET}@a:b",
        f"redis://:{SECRET}",
        f"redis://u:x@{SECRET}@a:b:c",
        f"redis://u:x/@{SECRET}",
    ],
)
def test_a_password_that_is_not_encoded_is_not_shown_either(url: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse(url)
    assert SECRET not in str(caught.value)
