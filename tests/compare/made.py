"""Figures as a run might have found them."""

from collections.abc import Mapping, Sequence

from twinwire.compare.figures import ROWS, WIRES, Figures, Options, Passage, Wire, curve

Pair = tuple[Sequence[float], Sequence[float]]


def figures(rows: Mapping[str, Pair] | None = None, **fields: object) -> Figures:
    """A run with these rows: the rounds of SSE, and those of WebSocket."""
    made = Figures("a server of its own", True, Options())
    for key, pair in (rows or {}).items():
        assert key in ROWS
        for wire, values in zip(WIRES, pair, strict=True):
            for value in values:
                made.add(key, wire, value)
    for name, field in fields.items():
        setattr(made, name, field)
    return made


def whole(**fields: object) -> Figures:
    """A run in which everything was measured."""
    made = figures({key: ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]) for key in ROWS})
    made.curves = {"sse": curve([1.0, 2.0, 9.0]), "ws": curve([2.0, 3.0, 20.0])}
    made.surroundings = {"machine": "<one> & only", "time": "2026-01-01 12:00+00:00"}
    made.received = {"sse": [600, 600], "ws": [600, 600]}
    made.busy = {"sse": [0.1], "ws": [0.1]}
    made.hold, made.hold_rate, made.silence = 8192, 40.0, 1.5
    made.passages = passages(sse="held", ws="refused")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def passages(*, sse: str, ws: str) -> list[Passage]:
    """What became of the wires behind a proxy that buffers, and of one that does not upgrade."""
    through = [(n / 10, 0.01) for n in range(10)]
    late = [(n / 10, 1.2 - n / 10) for n in range(8)]
    kinds: dict[str, Passage] = {
        "passed": Passage("", "sse", "passed", through, 10),
        "held": Passage("", "sse", "held", late, 10, ["nothing heard for 1.5 s"]),
        "refused": Passage("", "sse", "refused", [], 10, ["the server refuses: no (400)"]),
    }

    def behind(proxy: str, wire: Wire, outcome: str) -> Passage:
        like = kinds[outcome]
        return Passage(proxy, wire, like.outcome, like.points, like.published, like.said)

    return [
        behind("buffers and heeds nothing", "sse", sse),
        behind("buffers and heeds nothing", "ws", "passed"),
        behind("does not pass Upgrade", "sse", "passed"),
        behind("does not pass Upgrade", "ws", ws),
    ]
