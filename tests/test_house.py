"""The laws of the house that can be read off the source."""

import ast
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import twinwire
from tests import CI, ROOT

SRC = ROOT / "src"

# The layers that decide without doing: no event loop, socket, clock or source of randomness. A list
# of what is allowed, since a list of what is not can never be complete.
PURE = {"core", "wires", "errors"}
PURE_MAY_IMPORT = {
    "__future__", "abc", "array", "base64", "binascii", "bisect", "codecs", "collections",
    "contextlib", "copy", "dataclasses", "enum", "functools", "hashlib", "heapq", "hmac",
    "isal", "itertools", "json", "math", "msgspec", "operator", "re", "string", "struct", "types",
    "typing", "zlib",
}  # fmt: skip
# Reach the outside without an import.
PURE_MAY_NOT_CALL = {"__import__", "breakpoint", "eval", "exec", "input", "open", "print"}

# What each part may import besides itself. Downwards only, and a new part has to be entered here.
BELOW: dict[str, set[str]] = {"errors": set()}
BELOW["core"] = {"errors"}
BELOW["wires"] = {"core", "errors"}
BELOW["settings"] = {"core", "errors"}
BELOW["brokers"] = {"wires", "core", "errors"}
BELOW["client"] = {"wires", "core", "errors"}
BELOW["commands"] = {"errors"}
BELOW["fanout"] = {"wires", "core", "errors"}
BELOW["signals"] = set()
BELOW["hubs"] = set()
BELOW["version"] = set()
BELOW["soon"] = set()
BELOW["iterator"] = {"fanout"} | BELOW["fanout"]
BELOW["connections"] = {"fanout", "soon"} | BELOW["fanout"]
BELOW["nodes"] = {"brokers", "connections", "settings", "version"} | BELOW["connections"]
BELOW["hub"] = {"commands", "hubs", "iterator", "nodes", "signals"} | BELOW["nodes"]
BELOW["web"] = {"hub"} | BELOW["hub"]
BELOW["embed"] = {"web"} | BELOW["web"]
BELOW["server"] = {"web"} | BELOW["web"]
BELOW["demo"] = {"server", "client", "embed"} | BELOW["server"]
BELOW["compare"] = {"hub", "client"} | BELOW["hub"]
BELOW["cli"] = {"demo", "compare"} | BELOW["demo"]
BELOW["__init__"] = BELOW["demo"]
BELOW["__main__"] = {"cli"}
BELOW["testing"] = set(BELOW)

LONGEST = 400
# File below src/: why it is one file.
LONGER: dict[str, str] = {
    "twinwire/settings.py": "each setting stands once, with what happens at its limit",
    "twinwire/testing/contract.py": "the contract's tests, read beside the contract",
}


def sources() -> list[Path]:
    return sorted((SRC / "twinwire").rglob("*.py"))


def part_of(module: str) -> str:
    """`twinwire.core.log` is of the part `core`; `twinwire` itself of `__init__`."""
    return [*module.split("."), "__init__"][1]


def imports(code: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of everything imported anywhere in the code, also for types only."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, origin, alias.name


def violations(code: str, module: str, is_package: bool = False) -> list[str]:
    """Each sentence says what one module does that its layer must not."""
    part = part_of(module)
    if part not in BELOW:
        return [f"{module}: the part `{part}` has no place in the order of parts"]
    found = []
    for line, origin, name in imports(code, module, is_package):
        top = origin.split(".")[0]
        if top == "twinwire":
            submodule = origin == "twinwire" and name in BELOW
            other = name if submodule else part_of(origin)
            if other != part and other not in BELOW[part]:
                found.append(f"{module}:{line}: `{part}` must not import `{other}`")
        elif part in PURE and top not in PURE_MAY_IMPORT:
            found.append(f"{module}:{line}: `{part}` is pure and must not import `{origin}`")
    if part in PURE:
        found += [
            f"{module}:{node.lineno}: `{part}` is pure and must not call `{node.func.id}`"
            for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in PURE_MAY_NOT_CALL
        ]
    return found


def test_every_module_keeps_to_its_layer() -> None:
    found = []
    for path in sources():
        names = list(path.relative_to(SRC).with_suffix("").parts)
        is_package = names[-1] == "__init__"
        module = ".".join(names[:-1] if is_package else names)
        found += violations(path.read_text(), module, is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "code", "caught"),
    [
        ("twinwire.core.log", "import time", "pure and must not import `time`"),
        ("twinwire.core.log", "from datetime import datetime", "pure and must not import"),
        ("twinwire.core.log", "def f():\n    import random", ":2: `core` is pure"),
        ("twinwire.wires.sse", "import asyncio.events", "must not import `asyncio.events`"),
        ("twinwire.wires.sse", "import os, re", "must not import `os`"),
        ("twinwire.core.log", "x = open('f')", "must not call `open`"),
        ("twinwire.core.log", "from twinwire.wires import sse", "must not import `wires`"),
        ("twinwire.core.log", "from twinwire import hub", "must not import `hub`"),
        ("twinwire.core.log", "from ..hub import Hub", "must not import `hub`"),
        ("twinwire.core.log", "from .. import wires", "must not import `wires`"),
        ("twinwire.core.log", "import twinwire", "must not import `__init__`"),
        ("twinwire.core.log", "from twinwire import Hub", "must not import `__init__`"),
        ("twinwire.brokers.memory", "from twinwire.settings import Settings", "`settings`"),
        ("twinwire.hub", "from .web import app", "must not import `web`"),
        ("twinwire.client.sse", "import twinwire.hub", "must not import `hub`"),
        ("twinwire.hub", "if TYPE_CHECKING:\n    import twinwire.cli", "must not import `cli`"),
        ("twinwire.stray", "", "no place in the order"),
    ],
)
def test_a_violation_is_caught(module: str, code: str, caught: str) -> None:
    (sentence,) = violations(code, module)
    assert caught in sentence


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("twinwire.core.log", "import re\nfrom collections.abc import Iterator\nimport msgspec"),
        ("twinwire.core.log", "from .event import Event\nfrom twinwire.errors import Error"),
        ("twinwire.wires.sse", "from ..core.event import Event"),
        ("twinwire.web.sse", "import asyncio\nfrom twinwire import hub"),
        ("twinwire.testing", "from twinwire import Hub\nimport twinwire.cli"),
    ],
)
def test_what_is_allowed_is_not_caught(module: str, code: str) -> None:
    assert violations(code, module) == []


def test_a_package_resolves_its_relative_imports_from_itself() -> None:
    assert violations("from .log import Log", "twinwire.core", is_package=True) == []
    assert violations("from ..hub import Hub", "twinwire.core", is_package=True) != []


def test_no_source_file_is_long_without_a_reason() -> None:
    lines = {
        path.relative_to(SRC).as_posix(): len(path.read_text().splitlines()) for path in sources()
    }
    long = {name: count for name, count in lines.items() if count > LONGEST}
    assert long.keys() - LONGER.keys() == set(), f"over {LONGEST} lines: {long}"
    assert LONGER.keys() - long.keys() == set(), "no longer long: take these off the list"


def repository_files() -> list[Path]:
    """Tracked, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    places = [f"/{name}/" for name in ("home", "Users", "root", "work")]
    found = []
    for path in repository_files():
        text = path.read_bytes().decode(errors="replace")
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if any(place in line for place in places)
        ]
    assert not found, "\n".join(found)


def test_constraints_pin_versions_and_name_no_index() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = line.partition(";")[0].strip()
        assert line.startswith("#") or requirement.count("==") == 1, line
        assert "//" not in line
    assert '"resolved"' not in (ROOT / "tests" / "js" / "package-lock.json").read_text()


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("twinwire").joinpath("py.typed").is_file()


def test_ci_tests_the_built_wheel() -> None:
    assert not (CI and Path(twinwire.__file__).is_relative_to(SRC))
