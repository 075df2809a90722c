"""The scenarios, as data: who listens to what, what is published, what is raised, and the goals.

Every figure named here is one of figures.py. Every server named here is one of servers.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

P99_MS = 250.0
"""A rate is carried if p99 is not above this, and no event is missing, doubled or out of order."""

PEERS = "peers"
"""As a server: all of bench/peers. In a goal: the best of them."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of several ways to run a scenario, in turns, in one run."""

    name: str = ""
    """Follows the server's in tables."""

    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Of twinwire."""

    load: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Of the load client, with _ for -."""

    tls: bool = False


@dataclasses.dataclass(frozen=True)
class Goal:
    """The median of a figure, or of its ratio to another row's in the same repetition."""

    figure: str
    row: str
    least: float | None = None
    most: float | None = None
    over: str = ""
    """The row to divide by."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Bars for each row, by wire; or lines: what is tried while the rate rises."""

    figures: tuple[str, ...]
    kind: str = "bars"
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    """With places for the other fields."""

    how: str
    """What is done, a function of run.py: rising, steady, commands, idle, storm or stalled."""

    clients: int
    rate: float
    """Events a second: for `rising`, where the search begins for servers not in `starts`."""

    columns: tuple[str, ...]
    servers: tuple[str, ...] = ("twinwire", "batch", "naive")
    wires: tuple[str, ...] = ("sse", "ws")
    channels: int = 1
    each: int = 1
    """Channels of each client, at random but the same in every run."""

    starts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 4
    reps: int = 3
    variants: tuple[Variant, ...] = (Variant(),)
    load: Mapping[str, object] = dataclasses.field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    plots: tuple[Plot, ...] = ()
    note: str = ""
    """What a reader of the table must know."""

    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields with other values under --quick."""

    @property
    def heading(self) -> str:
        return self.title.format(**vars(self))


_RISING = (
    "million/s",
    "events/s",
    "p50 ms",
    "p99 ms",
    "server s/million",
    "client busy",
    "others' cores",
)
_RISING_PLOTS = (
    Plot(("million/s",), log=True),
    Plot(("million/s", "p99 ms"), kind="lines"),
)

FIREHOSE = Scenario(
    name="firehose",
    title="a. Firehose: {clients:,} clients on one channel, the highest rate that is carried",
    how="rising",
    clients=2000,
    rate=50,
    starts={"twinwire": 5000, "batch": 6000, "paced": 6000, "naive": 80},
    servers=("twinwire", "batch", "paced", "naive", PEERS),
    columns=_RISING,
    goals=(
        Goal("million/s", "twinwire", least=8),
        Goal("million/s", "twinwire", over="C, naive", least=40),
        Goal("million/s", "twinwire", over="C, batch", least=0.7),
        Goal("million/s", "twinwire", over=PEERS, least=20),
    ),
    plots=_RISING_PLOTS,
    note="Where the load client is busy all the time, it is the limit, not the server.",
    quick={"reps": 1, "seconds": 2, "servers": ("twinwire", "batch", "paced", "naive")},
)

MARKET = Scenario(
    name="market",
    title="b. Market: {clients:,} clients, each on {each} random channels of {channels},"
    " the highest rate carried",
    how="rising",
    clients=5000,
    channels=500,
    each=20,
    rate=200,
    starts={"twinwire": 10000, "batch": 12000, "paced": 18000, "naive": 700},
    servers=("twinwire", "batch", "paced", "naive", PEERS),
    columns=_RISING,
    goals=(
        Goal("million/s", "twinwire", least=3.5),
        Goal("million/s", "twinwire", over=PEERS, least=10),
    ),
    plots=_RISING_PLOTS,
    quick={
        "reps": 1,
        "seconds": 2,
        "wires": ("sse",),
        "servers": ("twinwire", "batch", "paced", "naive"),
    },
)

BROADCAST = Scenario(
    name="broadcast",
    title="c. Broadcast: {rate:g} events/s to {clients:,} clients, until the last one has each",
    how="steady",
    clients=5000,
    rate=10,
    seconds=6,
    load={"last": 1},
    columns=(
        "last client p50 ms",
        "last client p99 ms",
        "p50 ms",
        "server s/million",
        "others' cores",
    ),
    goals=(Goal("last client p50 ms", "twinwire", over="C, naive", most=1.3),),
    plots=(Plot(("last client p50 ms", "last client p99 ms")),),
    quick={"reps": 1, "seconds": 4, "wires": ("sse",)},
)

COMMANDS = Scenario(
    name="commands",
    title="d. Commands: round trips of {load[rpc_clients]} WebSocket clients, alone and in a"
    " firehose at half of twinwire's maximum",
    how="commands",
    clients=2000,
    rate=FIREHOSE.starts["twinwire"] / 2,
    seconds=8,
    servers=("twinwire", "batch"),
    variants=(Variant("alone", load={"clients": 0, "rate": 0}), Variant("in a firehose")),
    load={"rpc_clients": 200, "rpc_rate": 5},
    columns=(
        "call p50 ms",
        "call p90 ms",
        "call p99 ms",
        "call max ms",
        "call errors",
        "million/s",
        "others' cores",
    ),
    goals=(Goal("call p99 ms", "twinwire in a firehose", most=10),),
    plots=(Plot(("call p50 ms", "call p99 ms")),),
    note="A call that had to wait for the one before it counts from when it was due.",
    quick={"reps": 1, "seconds": 4, "wires": ("sse",)},
)

IDLE = Scenario(
    name="idle",
    title="e. Idle: {clients:,} clients, what each costs and how fast they come",
    how="idle",
    clients=10000,
    rate=0,
    seconds=60,
    servers=("twinwire", "batch"),
    columns=("server KiB/client", "slabs KiB/connection", "connects/s", "others' cores"),
    goals=(
        Goal("server KiB/client", "twinwire (sse)", most=6),
        Goal("server KiB/client", "twinwire (ws)", most=8),
    ),
    plots=(Plot(("server KiB/client",)), Plot(("connects/s",))),
    note="Slabs are the kernel's, for both ends of a connection (readable for root).",
    quick={"reps": 1},
)

STORM = Scenario(
    name="storm",
    title="f. Storm: {clients:,} clients drop and return at once, to positions 1,000 events old",
    how="storm",
    clients=5000,
    rate=200,
    seconds=12,
    servers=("twinwire",),
    load={"storm_at": 1, "storm_away": 5},
    columns=(
        "missed events",
        "half live ms",
        "all live ms",
        "loop held ms, drop",
        "return",
        "by itself, drop",
        "by itself, return",
        "command p50 ms",
        "command p99 ms",
        "command max ms",
        "others' cores",
    ),
    goals=(
        Goal("all live ms", "twinwire", most=2000),
        Goal("by itself, drop", "twinwire", most=50),
        Goal("by itself, return", "twinwire", most=50),
    ),
    plots=(Plot(("half live ms", "all live ms")),),
    note="The C server keeps no log: there is nothing to compare with. Live is who has everything"
    " that was published while it was away. Commands are those of one client that stayed.",
    quick={"reps": 1, "wires": ("sse",)},
)

_LOOPS = ("twinwire", "twinwire+asyncio")

LOOPS = dataclasses.replace(
    FIREHOSE,
    name="loops",
    title="Event loops: the firehose's {clients:,} clients at {rate:,.0f} events/s",
    how="steady",
    rate=1000,
    servers=_LOOPS,
    columns=("server s/million", "million/s", "p50 ms", "p99 ms", "others' cores"),
    load={"check_every": 10},
    goals=(),
    plots=(Plot(("server s/million", "p99 ms")),),
    note="What twinwire runs on by default is uvloop.",
    quick={"reps": 1, "seconds": 2, "wires": ("sse",)},
)

COMPRESSION = Scenario(
    name="compression",
    title="g. Compression: {clients:,} clients of the market at {rate:,.0f} ticks/s, with and"
    " without gzip (SSE) or permessage-deflate",
    how="steady",
    clients=5000,
    channels=500,
    each=20,
    rate=5000,
    seconds=6,
    servers=("twinwire",),
    variants=(
        Variant(),
        Variant(
            "compressed",
            settings={"compression": True, "ws_compression": True},
            load={"compressed": 1},
        ),
    ),
    load={"data": "ticks", "check_every": 10},
    columns=(
        "bytes/delivery",
        "server s/million",
        "million/s",
        "p50 ms",
        "p99 ms",
        "client busy",
        "others' cores",
    ),
    goals=(
        Goal("bytes/delivery", "twinwire", over="twinwire compressed", least=5),
        Goal("server s/million", "twinwire compressed", over="twinwire", most=1.3),
    ),
    plots=(Plot(("bytes/delivery",)), Plot(("server s/million",))),
    note="One of 10 clients decompresses and checks what it gets; of the others bytes are counted.",
    quick={"reps": 1, "seconds": 3, "clients": 1000, "wires": ("sse",)},
)

_TLS = (Variant("over TLS", tls=True, load={"tls": 1}),)
_TLS_NOTE = "One of 10 clients decrypts and checks what it gets; of the others bytes are counted."

FIREHOSE_TLS = dataclasses.replace(
    FIREHOSE,
    name="firehose_tls",
    title="h. The firehose over TLS",
    servers=("twinwire", "batch"),
    starts={"twinwire": 2500, "batch": 3000},
    variants=_TLS,
    load={"check_every": 10},
    goals=(),
    note=_TLS_NOTE,
    quick={"reps": 1, "seconds": 2, "wires": ("sse",)},
)

MARKET_TLS = dataclasses.replace(
    MARKET,
    name="market_tls",
    title="h. The market over TLS",
    servers=("twinwire", "batch"),
    starts={"twinwire": 7000, "batch": 10000},
    variants=_TLS,
    load={"check_every": 10},
    goals=(),
    note=_TLS_NOTE,
    quick={"reps": 1, "seconds": 2, "wires": ("sse",)},
)

STALLED = Scenario(
    name="slow_consumers",
    title="Slow consumers: {clients:,} clients alone, beside 500 more, and beside 500 that read"
    " nothing",
    how="stalled",
    clients=1500,
    rate=1000,
    seconds=6,
    reps=5,
    servers=("twinwire",),
    variants=(
        Variant(settings={"log_events": 2000, "write_timeout": 70}),
        Variant(
            "beside reading ones",
            settings={"log_events": 2000, "write_timeout": 70},
            load={"clients": 2000},
        ),
        Variant(
            "beside stalled ones",
            settings={"log_events": 2000, "write_timeout": 70},
            load={"clients": 2000, "stalled": 500},
        ),
    ),
    columns=("million/s", "p50 ms", "p99 ms", "server MiB", "queued MiB", "others' cores"),
    goals=(
        Goal("million/s", "twinwire beside stalled ones", over="twinwire", least=0.95),
        Goal(
            "p99 ms", "twinwire beside stalled ones", over="twinwire beside reading ones", most=1.2
        ),
    ),
    plots=(Plot(("p50 ms", "p99 ms")), Plot(("server MiB", "queued MiB"))),
    note="Those who read nothing take what comes, too, until the kernel's buffers for them are"
    " full. Queued is what waits in the kernel, from /proc/net/tcp, without the kernel's overhead.",
    quick={"reps": 1, "wires": ("sse",)},
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        FIREHOSE,
        MARKET,
        BROADCAST,
        COMMANDS,
        IDLE,
        STORM,
        LOOPS,
        COMPRESSION,
        FIREHOSE_TLS,
        MARKET_TLS,
        STALLED,
    )
}
