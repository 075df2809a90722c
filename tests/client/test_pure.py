"""What decides does no I/O, and what is optional is imported when it is needed."""

import subprocess
import sys

import pytest

from tests.test_house import SRC, imports

DOES_IO = {"asyncio", "http", "httpx2", "os", "random", "socket", "ssl", "time", "websockets"}


@pytest.mark.parametrize(
    "name", ["address", "backoff", "commands", "items", "ledger", "sse", "websocket"]
)
def test_what_decides_imports_nothing_that_does(name: str) -> None:
    module = f"twinwire.client.{name}"
    code = (SRC / "twinwire" / "client" / f"{name}.py").read_text()
    assert not {origin.partition(".")[0] for _, origin, _ in imports(code, module)} & DOES_IO


def test_the_client_is_imported_without_its_optional_packages() -> None:
    code = (
        "import sys; sys.modules.update(httpx2=None, websockets=None); import twinwire.client as c;"
        "c.Publisher('http://h'); c.subscribe('http://h', 'a')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("httpx2", "anext(c.subscribe('http://h', 'a'))"),
        ("httpx2", "c.Publisher('http://h').__aenter__()"),
        ("websockets", "anext(c.subscribe('http://h', 'a', wire='ws'))"),
    ],
)
def test_a_missing_package_is_named_when_it_is_needed(package: str, use: str) -> None:
    code = f"""
import asyncio, sys
sys.modules["{package}"] = None
import twinwire.client as c
async def main():
    try:
        await {use}
    except c.MissingExtra as error:
        print(error)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == f"the client needs {package}: pip install 'twinwire[client]'\n"
