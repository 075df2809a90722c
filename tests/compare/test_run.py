"""Whole runs, small ones: on a server of its own, and through a proxy as a deployment is."""

import pytest

from tests.servers import Server
from twinwire.compare.figures import ROWS, WIRES, Options
from twinwire.compare.page import page
from twinwire.compare.proxies import KINDS, Proxy
from twinwire.compare.run import measure
from twinwire.compare.speak import Target
from twinwire.compare.verdict import judge

SMALL = Options(clients=5, rate=50, seconds=0.2, rounds=1)


@pytest.mark.timeout(120)  # servers are started one after another, and proxies hold for seconds
async def test_a_run_measures_every_row_on_both_wires() -> None:
    notes: list[tuple[str, float]] = []
    figures = await measure(SMALL, None, None, lambda what, part: notes.append((what, part)))
    assert figures.trouble == {}
    assert {(key, wire) for key in ROWS for wire in WIRES if not figures.of(key, wire)} == set()
    assert all(came == expected > 0 for came, expected in figures.received.values())
    assert figures.of("bytes_event", "sse")[0] > 71 < figures.of("bytes_event", "ws")[0]
    assert {p.outcome for p in figures.passages if p.proxy == "passes everything"} == {"passed"}
    outcomes = {(p.proxy, p.wire): p.outcome for p in figures.passages}
    assert outcomes["buffers and heeds nothing", "sse"] == "held"
    assert outcomes["does not pass Upgrade", "ws"] == "refused"
    parts = [part for _, part in notes]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


@pytest.mark.timeout(120)  # proxies hold for seconds
async def test_a_deployment_without_websocket_is_measured_over_sse() -> None:
    with Server("--api-key", "secret") as server:
        async with Proxy(Target.of(server.url), KINDS[-1]).open() as url:
            figures = await measure(SMALL, url, "secret", lambda what, part: None)
    assert figures.trouble.keys() == {"ws"}
    assert "no WebSocket here" in figures.trouble["ws"]
    assert figures.of("p50", "sse")
    assert not figures.of("p50", "ws")
    assert figures.absent["memory"] == "not visible from here"
    assert judge(figures)[1].wire == "sse"
    assert "does not come through here" in page(figures)
