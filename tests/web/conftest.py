"""One server for all web tests that do not end it. Each test has channels of its own."""

import itertools
from collections.abc import Iterator

import pytest

from tests import ROOT
from tests.plain import Api
from tests.servers import Server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server("--app", "tests.web.app:app", cwd=ROOT) as running:
        yield running


@pytest.fixture
def port(server: Server) -> int:
    return server.port


@pytest.fixture
def api(port: int) -> Iterator[Api]:
    with Api(port) as opened:
        yield opened


@pytest.fixture
def channel() -> str:
    """A channel that no other test uses."""
    return f"open.{next(_numbers)}"
