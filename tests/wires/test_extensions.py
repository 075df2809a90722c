import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.wires.extensions import DEFLATE, deflate_agreed


@pytest.mark.parametrize(
    "offers",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",  # as browsers offer it
        "permessage-deflate;client_max_window_bits=9",
        'permessage-deflate; client_max_window_bits="1\\0"',
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "  permessage-deflate  ;\tserver_no_context_takeover , x-other",
        "x-webkit-deflate-frame, permessage-deflate",
        "foo; bar=1; server_max_window_bits=10, permessage-deflate",
    ],
)
def test_each_message_is_compressed_by_itself(offers: str) -> None:
    assert deflate_agreed(offers) == DEFLATE


def test_the_window_that_we_use_is_named_to_who_asks_for_it() -> None:
    answer = DEFLATE + "; server_max_window_bits=15"
    assert deflate_agreed("permessage-deflate; server_max_window_bits=15") == answer
    assert deflate_agreed('permessage-deflate; server_max_window_bits="15"') == answer


@pytest.mark.parametrize(
    "offers",
    [
        "",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_max_window_bits=14",
        "permessage-deflate; server_max_window_bits",  # needs a value
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=015",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=a",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; what_is_this",
        "permessage-deflate; ",
        "permessage-deflate = 1",
        "; permessage-deflate",
        'permessage-deflate; client_max_window_bits="15',
        "Permessage-Deflate",  # names of extensions are registered in lower case
    ],
)
def test_what_cannot_be_agreed_on_is_declined(offers: str) -> None:
    assert deflate_agreed(offers) is None


def test_the_first_offer_that_can_be_taken_is() -> None:
    small, any_size = "permessage-deflate; server_max_window_bits=10", "permessage-deflate"
    large = "permessage-deflate; server_max_window_bits=15"
    assert deflate_agreed(f"{small}, {any_size}, {large}") == DEFLATE
    assert (
        deflate_agreed(f"{small}, {large}, {any_size}") == f"{DEFLATE}; server_max_window_bits=15"
    )
    assert deflate_agreed(f"{small}, {small}") is None


@given(st.text(alphabet='permessage-deflate;,=" \\\t15_bits\x00é', max_size=200))
def test_no_header_raises(offers: str) -> None:
    assert deflate_agreed(offers) in (None, DEFLATE, DEFLATE + "; server_max_window_bits=15")
