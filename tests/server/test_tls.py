"""Over TLS it is the same server. The certificate in `tls/` is for localhost, and made for this."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import ROOT
from tests.plain import TEXT, Api, Socket, Stream, Talk, connect, get
from tests.servers import Server, answers
from twinwire.errors import BadSettings
from twinwire.server.run import tls_context
from twinwire.settings import Settings

HERE = Path(__file__).parent / "tls"
CERT, KEY = HERE / "cert.pem", HERE / "key.pem"


class TlsServer(Server):
    """`twinwire serve` with the certificate."""

    def __init__(self, *flags: str) -> None:
        files = [f"tls_cert={CERT}", f"tls_key={KEY}", "header_timeout=1"]
        super().__init__(*flags, *(part for file in files for part in ("--set", file)), cwd=ROOT)

    def wait_ready(self) -> None:
        while "listens on https" not in self.output:
            assert self.process.poll() is None, self.output


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    with TlsServer("--set", "echo=true") as running:
        yield running


@contextmanager
def secure(port: int, *, receive_buffer: int = 0) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(CERT))
    plain = connect(port, receive_buffer=receive_buffer)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        yield sock


class TlsApi(Api):
    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(0)
        self._http.sock = sock


def test_both_wires_and_the_api_go_over_tls(server: TlsServer) -> None:
    with secure(server.port) as one, secure(server.port) as two, secure(server.port) as three:
        one.sendall(get("/sse?channel=a"))
        reader = Stream(one)
        reader.next()
        talking = Talk(Socket(two, "/ws"))
        talking.ask(subscribe={"channel": "a"})
        position = TlsApi(three).publish("a", 1)
        assert reader.event().id == position
        assert talking.pub()["data"] == 1


def test_a_slow_reader_over_tls_gets_everything_in_order(server: TlsServer) -> None:
    with secure(server.port, receive_buffer=4096) as slow, secure(server.port) as other:
        slow.sendall(get("/sse?channel=slow"))
        reader = Stream(slow)
        reader.next()
        api = TlsApi(other)
        positions = []
        for n in range(200):
            positions += api.publish_all([("slow", [n, "x" * 10_000])] * 5)
        assert [block.id for block in reader.events(len(positions))] == positions


def test_the_end_is_told_over_tls() -> None:
    with TlsServer() as server, secure(server.port) as one, secure(server.port) as two:
        one.sendall(get("/sse?channel=a"))
        reader = Stream(one)
        talking = Talk(Socket(two, "/ws"))
        server.process.terminate()
        assert reader.rest()[-1].event == "reconnect"
        while (frame := talking.socket.read()).opcode != 8:
            continue
        assert frame.code == 3001
        assert server.process.wait(20) == 0


def test_a_message_that_is_too_large_is_told_over_tls(server: TlsServer) -> None:
    with secure(server.port) as sock:
        opened = Socket(sock, "/echo")
        opened.send(TEXT, b"x" * 100_000)
        while (frame := opened.read()).opcode != 8:
            continue
        assert frame.code == 1009


def test_one_who_speaks_plain_http_or_says_nothing_is_cut_and_hurts_nobody(
    server: TlsServer,
) -> None:
    with connect(server.port) as silent, connect(server.port) as plain:
        plain.sendall(get("/ready"))
        with _cut():
            while plain.recv(4096):
                continue
        while silent.recv(4096):
            continue
    with secure(server.port) as sock:
        sock.sendall(get("/ready"))
        assert sock.recv(12) == b"HTTP/1.1 200"
    assert not answers(server.port, "/ready")
    assert "Traceback" not in server.output


@contextmanager
def _cut() -> Iterator[None]:
    """The end of a connection, whether by a reset or not."""
    try:
        yield
    except ConnectionResetError:
        pass


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_key": KEY}, "tls_cert is not"),
        ({"tls_cert": HERE / "none.pem"}, "tls_cert: .*no such file"),
        ({"tls_cert": CERT, "tls_key": HERE / "none.pem"}, "tls_key: .*no such file"),
        ({"tls_cert": CERT}, "private key"),
        ({"tls_cert": __file__, "tls_key": KEY}, "in PEM"),
    ],
)
def test_files_that_are_not_a_certificate_and_its_key_are_named(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(BadSettings, match=said):
        tls_context(Settings.load(given=given))
