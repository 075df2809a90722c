"""Hypothesis runs here as it does for the core; and a server that the tests share."""

from collections.abc import Iterator

import pytest

from tests.core import conftest as conftest
from tests.servers import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with an API key."""
    with Server(
        "--api-key", "secret", "--set", "retry=0.1", "--set", 'allow_subscribe=["open.>"]'
    ) as server:
        yield server
