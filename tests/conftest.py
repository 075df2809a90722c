"""What every test may ask for, and the rule that in CI nothing is skipped."""

import random
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

import twinwire
from tests import CI, ROOT
from tests.servers import unused_port


def pytest_report_header() -> str:
    return f"twinwire {twinwire.__version__} from {Path(twinwire.__file__).parent}"


# Outermost (tryfirst), since pytest's own wrapper is what turns an expected failure into a "skip".
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid} was skipped, which CI does not allow: {_reason(report)}"
        )
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    return longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Coroutine tests run on asyncio, as the servers do."""
    return "asyncio"


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on."""
    return unused_port()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's Chromium, for Playwright's `executable_path`."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium found (Debian and Ubuntu: apt-get install chromium)")


class Node(NamedTuple):
    """A Node interpreter; scripts in `js` find the official clients beside them."""

    path: str
    js: Path


@pytest.fixture(scope="session")
def node() -> Node:
    """Node, with tests/js/node_modules installed."""
    js = ROOT / "tests" / "js"
    path = shutil.which("node")
    if path is None:
        pytest.skip("no Node found (Debian and Ubuntu: apt-get install nodejs npm)")
    if not (js / "node_modules" / "centrifuge").is_dir():
        pytest.skip("tests/js/node_modules is missing: scripts/test makes it")
    return Node(path, js)


@pytest.fixture(scope="session")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market tape, `time_ms,symbol,bid,ask`: the recorded one where it is, else one like it."""
    recorded = ROOT.parent / "shared" / "data" / "btcusdt-2020-02-22.csv"
    if recorded.is_file():
        return recorded
    made = tmp_path_factory.mktemp("tape") / "made.csv"
    dice = random.Random(2020)
    at, bid = 1_582_329_601_096, 968_192
    rows = ["time_ms,symbol,bid,ask\n"]
    for _ in range(9_999):
        rows.append(f"{at},BTCUSDT,{bid / 100:.2f},{(bid + dice.randint(1, 90)) / 100:.2f}\n")
        at += int(dice.expovariate(1 / 22))
        bid += dice.randint(-20, 20)
    made.write_text("".join(rows))
    return made
