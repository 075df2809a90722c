import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.web.coding import NotAcceptable, gzips


@pytest.mark.parametrize(
    "accept",
    [
        "gzip",
        "gzip, deflate, br, zstd",
        "GZIP",
        "x-gzip",
        "br;q=1, gzip;q=0.001",
        "*",
        "*;q=0.5",
        "gzip;q=0.5, identity;q=0.5",
        "identity;q=0, gzip",
        " gzip ; q=1.000 ,, ",
    ],
)
def test_gzip_is_chosen_where_it_is_liked_as_well_as_the_plain_body(accept: str) -> None:
    assert gzips([accept])


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "identity",
        "br, zstd",
        "gzip;q=0",
        "gzip;q=0.0, *",
        "gzip;q=0.5, identity",
        "*;q=0.5, identity;q=0.8",
        "gzip;q=2",
        "gzip;q=0.0001",
        "gzip;q=a",
        "gzip deflate",
        "gzipped",
    ],
)
def test_the_body_stays_plain_otherwise(accept: str) -> None:
    assert not gzips([accept])


def test_several_fields_are_one_list() -> None:
    assert gzips(["br", "gzip"])
    assert not gzips([])


@pytest.mark.parametrize("accept", ["*;q=0", "identity;q=0", "br, identity;q=0", "gzip;q=0, *;q=0"])
def test_who_takes_nothing_that_we_have_is_told(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        gzips([accept])


def test_without_compression_the_body_is_plain_or_nothing() -> None:
    assert not gzips(["gzip"], enabled=False)
    with pytest.raises(NotAcceptable):
        gzips(["gzip, identity;q=0"], enabled=False)


@given(st.lists(st.text(max_size=40)))
def test_no_field_raises_anything_else(accept: list[str]) -> None:
    try:
        gzips(accept)
    except NotAcceptable:
        pass
