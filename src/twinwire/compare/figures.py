"""What is measured: the rows, a run's figures, and when two of them differ.

Of each round and wire a row has one value, a median already. A figure is the median of the rounds,
its spread goes from the lowest to the highest of them. Less is better in every row.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

Wire: TypeAlias = Literal["sse", "ws"]

WIRES: Final[tuple[Wire, Wire]] = ("sse", "ws")
NAMES: Final[dict[Wire, str]] = {"sse": "SSE", "ws": "WebSocket"}

WORTH_WORDS: Final = 0.03
"""A difference below this part is none, however exact the figures are."""

ROUNDS_ENOUGH: Final = 5
"""Rounds from which on it counts that all of them agree: by luck five do in one case of 16."""


class Row(NamedTuple):
    """One line of the table. `noun` names it inside a sentence, `means` says what it is."""

    key: str
    title: str
    unit: str
    noun: str
    group: str
    means: str


ROWS: Final = {
    row.key: row
    for row in (
        Row(
            "connect", "Connect", "ms", "time to connect", "Coming",
            "From the start of the TCP connection until the client is live: the first block of the "
            "event stream, or the answer to the WebSocket's subscribe command. One client at a "
            "time; the name of the server is looked up before.",
        ),
        Row(
            "bytes_connect", "Bytes to connect", "B", "bytes to connect", "Coming",
            "Both directions until then: request and response heads, handshake, commands. Browsers "
            "send more headers, and cookies, on either wire.",
        ),
        Row(
            "snapshot", "First event of a new client", "ms", "time to the first event", "Coming",
            "From the start of the TCP connection until a client that asks for the latest value "
            "(mode latest) has it.",
        ),
        Row(
            "resume", "Resume and replay 1,000 events", "ms", "time to replay", "Coming",
            "From the start of the TCP connection, with the position reached before, until the "
            "last of the 1,000 missed events is there.",
        ),
        Row(
            "bytes_resume", "Bytes of that replay", "B", "bytes of a replay", "Coming",
            "All that the client receives in it.",
        ),
        Row(
            "first", "One event to one client", "ms", "time to one client", "Delivery",
            "From before the POST that publishes it until it has reached a client that is live, "
            "with nothing else going on.",
        ),
        Row(
            "p50", "Delivery latency, p50", "ms", "latency p50", "Delivery",
            "Half of all deliveries to all clients are faster. From when the event was due to be "
            "published until a client has read it; the reading of one client after another is in "
            "it.",
        ),
        Row(
            "p99", "Delivery latency, p99", "ms", "latency p99", "Delivery",
            "One delivery in a hundred takes longer.",
        ),
        Row(
            "bytes_event", "Bytes per event", "B", "bytes per event", "On the network",
            "Received at the client's socket, with the framing of HTTP or WebSocket, without TCP, "
            "IP and TLS. What is published is 71 bytes.",
        ),
        Row(
            "segments", "TCP segments per event", "", "TCP segments per event", "On the network",
            "Segments with data that the client's kernel has counted, each with some 52 bytes of "
            "TCP and IP on top.",
        ),
        Row(
            "bytes_heartbeat", "Bytes per heartbeat", "B", "bytes per heartbeat", "On the network",
            "Both directions: the id that keeps an event stream's position up to date, or the "
            "WebSocket's ping and the client's answer.",
        ),
        Row(
            "cpu", "Server CPU per million deliveries", "s", "CPU per million deliveries", "Server",
            "Seconds of one core, of the server's process alone, with events that come singly: "
            "each is a write of its own for each client. Taking the events in is part of it.",
        ),
        Row(
            "cpu_batch", "The same in batches of 20", "s", "CPU in batches", "Server",
            "With 20 events in each POST, which are joined into one write for each client.",
        ),
        Row(
            "memory", "Server memory per client", "KiB", "memory per client", "Server",
            "Growth of the server's resident memory while the clients connect, for each of them. "
            "The kernel's socket buffers are not in it.",
        ),
        Row(
            "publish", "Publish and be answered", "ms", "publish round trip", "Talking back",
            "The same event published by a client: POST /api/publish on a kept connection, beside "
            "an event stream, or the publish command on the WebSocket.",
        ),
        Row(
            "publish_fresh", "… on a fresh connection", "ms", "round trip on a fresh connection",
            "Talking back",
            "The POST with a TCP connection made for it, as when the kept one has idled out. The "
            "WebSocket's is open anyway.",
        ),
        Row(
            "command", "Command round trip", "ms", "command round trip", "Talking back",
            "A command that does nothing, called over the WebSocket (rpc). An event stream cannot "
            "carry one: beside it stands the POST from above, the nearest that there is.",
        ),
    )
}  # fmt: skip


class Options(msgspec.Struct):
    """How much is measured: clients of the fan-out, events a second, its seconds, rounds."""

    clients: int = 200
    rate: float = 25.0
    seconds: float = 2.0
    rounds: int = 5
    channel: str = "bench.compare"


class Passage(msgspec.Struct):
    """What became of one wire behind one proxy."""

    proxy: str
    wire: Wire
    outcome: Literal["passed", "held", "refused"]
    points: list[tuple[float, float]] = []
    """Of each event that came: when it was published, and how much later it came, in s."""
    published: int = 0
    said: list[str] = []
    """What our client noticed, in its words."""

    @property
    def longest(self) -> float:
        """The longest delay in seconds."""
        return max((delay for _, delay in self.points), default=0.0)


class Figures(msgspec.Struct):
    """A run: what was measured where, and what came out."""

    target: str
    own: bool
    options: Options
    surroundings: dict[str, str] = {}
    values: dict[str, dict[str, list[float]]] = {}
    """Row and wire: a value for each round."""
    absent: dict[str, str] = {}
    """Row, or row and wire as ``memory/ws``: why there is no value."""
    trouble: dict[str, str] = {}
    """Wire: why it could not be measured at all."""
    curves: dict[str, list[float]] = {}
    """Wire: latencies in ms at the quantiles 0, 0.5, 1 … 100 %, of all rounds together."""
    received: dict[str, list[int]] = {}
    """Wire: deliveries that came, and that should have."""
    busy: dict[str, list[float]] = {}
    """Wire: of each round, the part of its core that the load client has used."""
    passages: list[Passage] = []
    hold: int = 0
    """Bytes that the buffering proxy holds."""
    hold_rate: float = 0.0
    """Events a second that went through the proxies."""
    silence: float = 0.0
    """Seconds of silence after which the client behind them came back."""

    def add(self, key: str, wire: str, value: float) -> None:
        """Take the value of one more round."""
        self.values.setdefault(key, {}).setdefault(wire, []).append(value)

    def of(self, key: str, wire: Wire) -> list[float]:
        """The rounds of a row; none if it was not measured."""
        return self.values.get(key, {}).get(wire, [])

    def why_absent(self, key: str, wire: Wire) -> str:
        """Why a row has no value; empty if nobody said."""
        return (
            self.absent.get(f"{key}/{wire}") or self.absent.get(key) or self.trouble.get(wire, "")
        )


class Comparison(NamedTuple):
    """Which wire has less, None if they do not differ; by which part; the medians."""

    less: Wire | None
    part: float
    medians: dict[Wire, float]


def compare(values: dict[Wire, Sequence[float]]) -> Comparison | None:
    """Hold two figures against each other, round by round; None if one of them is not there.

    They differ, by `WORTH_WORDS` at least in the middle, if every round of the one lies below every
    round of the other. Or, from `ROUNDS_ENOUGH` rounds on, if the same wire has less in each, and
    by more than half of how much that difference varies: a machine that gets busier does so for
    both.
    """
    if not all(values.get(wire) for wire in WIRES):
        return None
    medians = {wire: statistics.median(values[wire]) for wire in WIRES}
    pairs = list(zip(values["sse"], values["ws"], strict=False))
    less: Wire = "sse" if sum(a < b for a, b in pairs) * 2 > len(pairs) else "ws"
    more: Wire = "ws" if less == "sse" else "sse"
    parts = [
        1 - ours / theirs if theirs > 0 else 0.0
        for ours, theirs in zip(values[less], values[more], strict=False)
    ]
    apart = max(values[less]) < min(values[more])
    steady = min(parts) > 0 and 2 * statistics.median(parts) > max(parts) - min(parts)
    part = 1 - medians[less] / medians[more] if medians[more] > 0 else 0.0
    differ = part >= WORTH_WORDS and (apart or (steady and len(pairs) >= ROUNDS_ENOUGH))
    return Comparison(less if differ else None, part, medians)


def compared(figures: Figures, key: str) -> Comparison | None:
    """Hold the wires' figures of a row against each other."""
    return compare({wire: figures.of(key, wire) for wire in WIRES})


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value below which `part` of `ordered` lies; between two, in proportion."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def curve(ages: Sequence[float]) -> list[float]:
    """The values at 0, 0.5, 1 … 100 %; none of nothing."""
    ordered = sorted(ages)
    return [quantile(ordered, step / 200) for step in range(201)] if ordered else []


def show(value: float, unit: str) -> str:
    """A value with its unit, as people write it: three digits that count."""
    if unit == "ms" and value >= 1000:
        value, unit = value / 1000, "s"
    if unit == "B":
        if value >= 10_000:
            value, unit = value / 1024, "KiB"
        else:
            text = f"{value:,.1f}".removesuffix(".0") if value < 100 else f"{value:,.0f}"
            return f"{text} B"
    digits = f"{value:.3g}"
    text = f"{value:,.0f}" if value >= 100 or "e" in digits else digits
    return f"{text} {unit}".strip()


def spread(values: Sequence[float], unit: str) -> str:
    """From where to where the rounds lie; without the unit if it is one; empty for one value."""
    low, high = show(min(values), unit), show(max(values), unit)
    if low == high:
        return ""
    short, _, its = low.partition(" ")
    other, _, their = high.partition(" ")
    return f"{short} – {other}" if its == their else f"{low} – {high}"


def to_json(figures: Figures) -> bytes:
    """Everything, for machines."""
    return msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n"


def of_json(text: bytes | str) -> Figures:
    """What `to_json` has written. Raises `msgspec.ValidationError`."""
    found: Any = msgspec.json.decode(text, type=Figures)
    assert isinstance(found, Figures)
    return found
