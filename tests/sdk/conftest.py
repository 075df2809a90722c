"""The clients under test."""

from collections.abc import Callable

import pytest

from tests.conftest import Node
from tests.sdk.clients import NodeSdk, PythonSdk, Sdk


@pytest.fixture(params=["python", "node"])
def sdk(request: pytest.FixtureRequest) -> Callable[..., Sdk]:
    """Makes a client of one of the official SDKs, for a server's or relay's `ws_url`, and perhaps
    with a query."""
    if request.param == "python":
        return lambda url, query="": PythonSdk(f"{url}/ws{query}")
    node: Node = request.getfixturevalue("node")
    return lambda url, query="": NodeSdk(f"{url}/ws{query}", node)
