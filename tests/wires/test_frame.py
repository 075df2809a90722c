"""Frames as another implementation reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from twinwire.errors import CloseReason
from twinwire.wires.frame import BINARY, TEXT, close, frame


def client() -> Protocol:
    return Protocol(Side.CLIENT, state=OPEN, max_size=None)


def received(protocol: Protocol) -> list[tuple[Opcode, bytes, bool]]:
    assert protocol.parser_exc is None
    frames = [each for each in protocol.events_received() if isinstance(each, Frame)]
    return [(each.opcode, bytes(each.data), each.fin) for each in frames]


SIZES = [0, 1, 125, 126, 127, 65535, 65536, 65537, 200_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_frame_of_any_size_carries_its_payload_whole(opcode: int, size: int) -> None:
    protocol = client()
    protocol.receive_data(frame(opcode, b"x" * size))
    assert received(protocol) == [(Opcode(opcode), b"x" * size, True)]


@pytest.mark.parametrize("size", SIZES)
def test_the_length_takes_as_few_bytes_as_it_may(size: int) -> None:
    head = 2 if size < 126 else 4 if size < 65536 else 10
    assert len(frame(TEXT, b"x" * size)) == head + size


@given(st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=300)), max_size=5))
def test_frames_in_a_row_are_read_byte_by_byte(messages: list[tuple[int, bytes]]) -> None:
    protocol = client()
    for byte in b"".join(frame(opcode, payload) for opcode, payload in messages):
        protocol.receive_data(bytes([byte]))
    assert received(protocol) == [(Opcode(opcode), data, True) for opcode, data in messages]


@pytest.mark.parametrize("reason", CloseReason)
def test_every_close_reason_arrives(reason: CloseReason) -> None:
    protocol = client()
    protocol.receive_data(close(reason.code, reason.text))
    assert protocol.close_rcvd == Close(reason.code, reason.text)


@given(st.text(max_size=130) | st.text("xé€😀", min_size=40, max_size=130))
def test_a_long_reason_is_cut_at_a_character(reason: str) -> None:
    protocol = client()
    protocol.receive_data(close(3000, reason))
    assert protocol.close_rcvd is not None
    told = protocol.close_rcvd.reason
    assert reason.startswith(told)
    assert told == reason or len(told.encode()) > 119
