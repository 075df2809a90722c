"""What it takes to have others' servers here: packages on demand, versions, requests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench import lib

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
NODE = HERE / "node"
GO = HERE / "go"


DOOR = -30_000
"""From the port for clients to that for the publisher, where one is not enough: out of the range
from which the system takes ports by itself."""

BESIDE = ("--publish-port", str(DOOR))
"""So the load client publishes there."""


def query(channels: Iterable[str]) -> str:
    """As the load client reads it, to know what is to come; most servers read it, too."""
    return "&".join(f"channel={channel}" for channel in channels)


def token(claims: Mapping[str, object], key: str) -> str:
    """A signed JWT, HS256."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    text = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return f"{text}.{encoded(hmac.digest(key.encode(), text.encode(), hashlib.sha256))}"


def program(name: str, variable: str = "") -> str:
    """The path of a program, or of the one that the environment names; "" if there is none."""
    if variable:
        return shutil.which(os.environ.get(variable) or name) or ""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or ""


def _run(argv: Sequence[object], cwd: Path = HERE, **env: str) -> str:
    """What the program says. Raises `BenchError` with it if that is bad."""
    try:
        done = subprocess.run(
            [str(part) for part in argv],
            cwd=cwd,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=600,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise lib.BenchError(f"{argv[0]}: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1000:]
        raise lib.BenchError(f"{' '.join(map(str, argv))} failed:\n{said}")
    return done.stdout.strip()


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


# Python


def _environment() -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return lib.BUILD / f"peers-{version}-{_digest(REQUIREMENTS)}"


def python() -> Path:
    """A Python with the packages of requirements.txt; the first call installs them."""
    home = _environment()
    made = home / "made"
    if not made.exists():
        lib.BUILD.mkdir(exist_ok=True)
        _run([sys.executable, "-m", "venv", "--clear", home])
        _run([home / "bin/python", "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS])
        made.touch()
    return home / "bin/python"


def python_version(package: str) -> str:
    """ "" as long as it is not installed."""
    places = map(str, _environment().glob("lib/python*/site-packages"))
    found = importlib.metadata.distributions(name=package, path=list(places))
    return next((distribution.version for distribution in found), "")


def python_missing() -> str:
    if importlib.util.find_spec("ensurepip"):
        return ""
    return "this Python makes no environments: apt-get install python3-venv"


# Node


def node(script: str) -> list[str]:
    """Runs the script; the first call installs what it imports."""
    lock = NODE / "package-lock.json"
    made = NODE / "node_modules" / f"made-{_digest(lock)}"
    if not made.exists():
        _run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], NODE)
        made.touch()
    return [program("node"), str(NODE / script)]


def node_version(package: str) -> str:
    lock = json.loads((NODE / "package-lock.json").read_text())
    return str(lock["packages"][f"node_modules/{package}"]["version"])


def node_missing() -> str:
    absent = [name for name in ("node", "npm") if not program(name)]
    return f"{' and '.join(absent)} not found" if absent else ""


# Go


def go(name: str) -> Path:
    """The program built from go/NAME; the first call builds it."""
    home = GO / name
    built = lib.BUILD / f"{name}-{_digest(home / 'go.mod', home / 'go.sum', home / 'main.go')}"
    if not built.exists():
        lib.BUILD.mkdir(exist_ok=True)
        _run(["go", "build", "-trimpath", "-o", built, "."], home)
    return built


def go_version(name: str, module: str) -> str:
    for line in (GO / name / "go.mod").read_text().splitlines():
        before, found, version = line.partition(module + " v")
        if found and not before.strip(" \trequi"):
            return version.split()[0]
    return ""


def go_missing() -> str:
    return "" if program("go") else "go not found"


# Debian


def debian_version(package: str) -> str:
    """Without epoch and revision; "" if it is not installed."""
    try:
        full = _run(["dpkg-query", "-W", "-f", "${Version}", package])
    except lib.BenchError:
        return ""
    return full.rpartition(":")[2].partition("-")[0].partition("+")[0]
