"""Pieces of DEFLATE: whoever gets them, after whatever, reads the same."""

import random
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.errors import BadFrame, TooLarge
from twinwire.wires import deflate
from twinwire.wires.deflate import GZIP_HEAD, LAST, LEAST, Gunzip, compressed, inflate, stored

# What compresses well, what does not, and what is too small to try.
plains = st.one_of(
    st.binary(max_size=2000),
    st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 3000)).map(lambda t: t[0] * t[1]),
)
blocks = st.lists(st.tuples(plains, st.sampled_from([1, 2, 64, 5000])), min_size=1, max_size=12)


def piece(plain: bytes, readers: int) -> bytes:
    return compressed(plain, readers) or stored(plain)


@given(blocks, st.randoms(use_true_random=False))
def test_pieces_make_sense_in_any_order_and_from_any_point_on(
    parts: list[tuple[bytes, int]], dice: random.Random
) -> None:
    pieces = [(plain, piece(plain, readers)) for plain, readers in parts]
    for _ in range(3):
        dice.shuffle(pieces)
        late = pieces[dice.randrange(len(pieces)) :]
        reader = zlib.decompressobj(-15)
        for plain, coded in late:
            # At once, and nothing is kept back.
            assert reader.decompress(coded) == plain


@given(blocks)
def test_a_gzip_body_is_read_byte_by_byte_as_it_comes(parts: list[tuple[bytes, int]]) -> None:
    reader, ours = zlib.decompressobj(31), Gunzip()
    for byte in GZIP_HEAD:
        assert reader.decompress(bytes([byte])) == b""
        assert list(ours.feed(bytes([byte]))) == [b""]
    for plain, readers in parts:
        coded = piece(plain, readers)
        assert b"".join(reader.decompress(bytes([byte])) for byte in coded) == plain
        assert b"".join(part for byte in coded for part in ours.feed(bytes([byte]))) == plain
    assert reader.decompress(LAST) == b""
    assert not reader.eof  # but for the trailer, which there is none of
    assert reader.flush() == b""


def test_every_piece_ends_with_an_empty_block() -> None:
    for plain in (b"", b"x", b"x" * 70_000, b"x" * (2 * 65535)):
        for coded in (stored(plain), piece(plain, 1)):
            assert coded.endswith(b"\x00\x00\xff\xff")
            assert zlib.decompressobj(-15).decompress(coded) == plain


def test_what_is_small_or_becomes_no_smaller_is_not_compressed() -> None:
    assert compressed(b"x" * (LEAST - 1)) is None
    assert compressed(b"x" * LEAST) is not None
    assert compressed(b"x" * (LEAST - 1), 2) is not None
    dice = random.Random(1)
    assert compressed(dice.randbytes(5000)) is None
    assert compressed(dice.randbytes(5000), 1000) is None


def test_what_many_read_is_compressed_more_thoroughly() -> None:
    dice = random.Random(1)
    tick = b'id: 1763800000000-%d\ndata: {"channel":"prices.%b","data":{"bid":%d,"ask":%d}}\n\n'
    names = [b"EURUSD", b"USDJPY", b"XAUUSD", b"BTCUSD"]
    plain = b"".join(
        tick
        % (n, dice.choice(names), dice.randrange(108000, 109000), dice.randrange(109000, 110000))
        for n in range(500)
    )
    few, many = compressed(plain, 1), compressed(plain, 1000)
    assert few is not None
    assert many is not None
    assert len(many) < len(few) < len(plain) / 4


def test_threads_never_share_a_compressor() -> None:
    plains = [bytes([n]) * 50_000 + bytes(range(256)) * 200 for n in range(64)]
    with ThreadPoolExecutor(8) as threads:
        for readers in (1, 1000):
            coded = list(threads.map(lambda plain, n=readers: piece(plain, n), plains * 8))
            assert [zlib.decompressobj(-15).decompress(c) for c in coded] == plains * 8


def test_without_isal_the_standard_library_does_it() -> None:
    program = """
import sys, zlib
sys.modules["isal"] = None
from twinwire.wires.deflate import compressed
plain = b"id: 1-2 " * 100
for readers in (1, 1, 1000):
    assert zlib.decompressobj(-15).decompress(compressed(plain, readers)) == plain
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


@given(plains, st.integers(-1, 1), st.booleans())
def test_messages_of_clients_are_inflated_up_to_a_limit(
    plain: bytes, more: int, final: bool
) -> None:
    client = zlib.compressobj(wbits=-15)
    if final:
        payload = client.compress(plain) + client.flush() + b"\x00"
    else:
        payload = client.compress(plain) + client.flush(zlib.Z_SYNC_FLUSH)
        assert payload.endswith(b"\x00\x00\xff\xff")
        payload = payload[:-4]
    limit = max(0, len(plain) + more)
    if len(plain) > limit:
        with pytest.raises(TooLarge):
            inflate(payload, limit)
    else:
        assert inflate(payload, limit) == plain


def test_a_bomb_is_not_inflated() -> None:
    client = zlib.compressobj(9, wbits=-15)
    bomb = client.compress(bytes(1 << 28)) + client.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(TooLarge, match="message_max_bytes"):
        inflate(bomb[:-4], 65536)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"\x00\x01\x00\x00\x00x",  # a stored block whose lengths contradict each other
        b"\x03\x00more",  # after the last block
        zlib.compress(b"x" * 100),  # zlib's format, not raw
    ],
)
def test_what_is_not_compressed_is_refused(payload: bytes) -> None:
    with pytest.raises(BadFrame):
        inflate(payload, 1000)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_whatever_a_client_sends_is_inflated_or_refused(payload: bytes, limit: int) -> None:
    try:
        assert len(inflate(payload, limit)) <= limit
    except (BadFrame, TooLarge):
        pass


@given(plains, st.sampled_from([1, 1000]))
def test_our_messages_are_what_the_other_side_inflates(plain: bytes, readers: int) -> None:
    payload = deflate.message(plain, readers)
    if payload is not None:
        assert len(payload) < len(plain)
        assert zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff") == plain
        assert inflate(payload, len(plain)) == plain


def test_a_body_that_grows_a_thousand_times_is_read_in_parts() -> None:
    body = zlib.compressobj(9, wbits=31)
    coded = body.compress(bytes(1 << 20)) + body.flush()
    sizes = [len(part) for part in Gunzip().feed(coded)]
    assert sum(sizes) == 1 << 20
    assert max(sizes) <= 65536


def test_a_body_that_is_not_gzip_is_refused() -> None:
    with pytest.raises(BadFrame, match="not gzip"):
        list(Gunzip().feed(b"data: x\n\n"))
