"""The words: which wire for which job, and that they say what the figures do."""

import pytest

from tests.compare.made import Pair, figures, passages, whole
from twinwire.compare.figures import ROWS, Wire
from twinwire.compare.verdict import JOBS, Verdict, judge, words

PRICES, ORDERS, PHONES, QUIET = (job.title for job in JOBS)

LESS: Pair = ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2])
MORE: Pair = (LESS[1], LESS[0])
SAME: Pair = ([1.0, 2.0, 3.0], [1.1, 2.1, 2.9])


def on(title: str, rows: dict[str, Pair], **fields: object) -> Verdict:
    return next(v for v in judge(figures(rows, **fields)) if v.title == title)


@pytest.mark.parametrize(
    ("title", "rows", "wire"),
    [
        (PRICES, {}, "sse"),
        (PRICES, {"p50": SAME, "p99": SAME}, "sse"),
        (PRICES, {"bytes_event": LESS, "p99": MORE}, "sse"),
        (PRICES, {"bytes_event": LESS, "p99": MORE, "p50": MORE}, "ws"),
        (ORDERS, {}, "ws"),
        (ORDERS, {"command": MORE}, "ws"),
        (ORDERS, {"command": LESS}, "sse"),
        (ORDERS, {"command": LESS, "publish": MORE}, "ws"),
        (ORDERS, {"bytes_event": LESS}, "ws"),  # does not count for it
        (PHONES, {"connect": SAME, "resume": LESS}, "sse"),
        (QUIET, {"memory": MORE, "bytes_heartbeat": MORE, "cpu": LESS}, "ws"),
    ],
)
def test_a_job_has_its_wire_unless_the_figures_lean_the_other_way(
    title: str, rows: dict[str, Pair], wire: Wire
) -> None:
    assert on(title, rows).wire == wire


def test_words_give_both_figures_and_how_much_less() -> None:
    rows: dict[str, Pair] = {"bytes_event": ([108.0], [162.0]), "memory": ([20.0], [10.0])}
    assert on(PRICES, rows).facts == (
        "Bytes per event: SSE 108 B against 162 B (33 % less).",
        "Memory per client: WebSocket 10 KiB against 20 KiB (50 % less).",
    )


def test_figures_within_their_spread_are_no_difference() -> None:
    facts = on(PRICES, {"p50": SAME, "p99": ([5.0], [5.0]), "bytes_event": LESS}).facts
    assert facts == (
        "Bytes per event: SSE 1.1 B against 2.1 B (48 % less).",
        "No difference in latency p50 (2 ms and 2.1 ms) and latency p99 (5 ms).",
    )


def test_figures_that_lean_the_other_way_are_said_to() -> None:
    lead = on(ORDERS, {"command": LESS, "publish": SAME}).lead
    assert lead.startswith("SSE, by these figures: it needs less in 1 of 2, WebSocket in none.")
    assert "both ways in order" in lead


def test_a_wire_that_does_not_come_through_is_right_for_nothing() -> None:
    found = judge(figures({}, trouble={"ws": "no WebSocket here: bad request (400)"}))
    assert {verdict.wire for verdict in found} == {"sse"}
    assert "WebSocket does not come through here: no WebSocket here" in found[0].lead


def test_what_cannot_be_seen_from_here_is_said() -> None:
    absent = {"memory": "not visible from here", "cpu": "not visible from here"}
    (fact,) = on(QUIET, {}, absent=absent).facts
    assert fact == (
        "Not measured: memory per client and CPU per million deliveries, not visible from here."
    )


def test_what_one_wire_alone_has_is_said() -> None:
    (fact,) = on(ORDERS, {"publish": ([1.0], [])}).facts
    assert fact == "Of one wire only: publish round trip."


@pytest.mark.parametrize(
    ("sse", "ws", "wire", "lead"),
    [
        ("held", "refused", None, "Offer both"),
        ("passed", "refused", "sse", "SSE: it came through more"),
        ("held", "passed", "ws", "WebSocket: it came through more"),
        ("passed", "passed", None, "Either"),
    ],
)
def test_what_proxies_stop_is_told(sse: str, ws: str, wire: Wire | None, lead: str) -> None:
    verdict = judge(whole(passages=passages(sse=sse, ws=ws)))[-1]
    assert verdict.wire == wire
    assert verdict.lead.startswith(lead)


def test_how_long_a_proxy_holds_a_stream_is_told() -> None:
    facts = " ".join(judge(whole(passages=passages(sse="held", ws="refused")))[-1].facts)
    assert "SSE is held back for up to 1.2 s at 40 events/s, and 8 of 10 events came." in facts
    assert "At one event a second it would be 7447 s: 8,192 B have to come" in facts
    assert "WebSocket is refused, and the client stays away." in facts


def test_the_words_are_lines_of_text() -> None:
    lines = words(judge(whole()))
    assert lines[0] == PRICES
    assert all(line.startswith("  ") or line[0].isupper() for line in lines)


def test_every_row_that_counts_for_a_job_is_measured() -> None:
    assert {key for job in JOBS for key in job.rows} <= ROWS.keys()
