"""What a million clients cost: `python -m bench.scale`.

One node of many is simulated. The log, the lanes and the joining are the real ones and are timed.
A write to a socket is not made but counted as `--write` microseconds, which `scripts/bench
broadcast` tells for a machine (the C loop's time to its last client, divided by the clients). Time
is the simulation's: a tick takes what it has cost, and the next one takes all that was published
meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.results import table
from twinwire.core.event import Event
from twinwire.core.feed import Feed, Mode, Start
from twinwire.core.lane import Lanes
from twinwire.core.log import Log, Retention
from twinwire.wires import sse

EPOCH = 1_763_800_000_000
TICK = b'{"bid":1.08432,"ask":1.08441,"n":1234567,"at":"12:00:00.123"}'
MOST = 1 << 40


class Work(NamedTuple):
    name: str
    channels: int
    """0: one for each client of all nodes."""

    each: int
    rate: float
    """Events a second, in all."""


WORK = (
    Work("news: one channel, 10 events/s", 1, 1, 10),
    Work("prices: 20 of 500 channels each, 500 events/s", 500, 20, 500),
    Work("notifications: a channel each, 20,000 events/s", 0, 1, 20_000),
)


class Node:
    """One of the nodes, with its share of the clients."""

    def __init__(self, work: Work, clients: int, nodes: int, write: float) -> None:
        """`write` is the time of one in seconds."""
        chance = random.Random(1)
        self.work = work
        self.names = [f"bench.{n}" for n in range(work.channels or clients * nodes)]
        self.log = Log(EPOCH, retention=Retention(100_000), channels_max=4_000_000)
        self.lanes = Lanes()
        self.write = write
        wire = sse.wire(envelope=False, chunked=True)
        own = chance.sample(self.names, clients) if not work.channels else []
        for n in range(clients):
            wanted = [own[n]] if own else chance.sample(self.names, work.each)
            feed = Feed(wire)
            feed.start(wanted, Mode.EVERY, Start.NOW, self.log)
            feed.advance(self.log, self.lanes, MOST)
        self._events = (chance.choice(self.names) for _ in itertools.count())

    def tick(self, count: int) -> tuple[float, int]:
        """Publish so many events and cut once: seconds, and writes."""
        channels = list(itertools.islice(self._events, count))
        head = self.log.head
        begun = time.process_time()
        for seq, channel in enumerate(channels, head + 1):
            event = Event(channel, TICK, EPOCH, seq, 0)
            self.log.append(event)
            self.lanes.append(event)
        writes = 0
        for cut in self.lanes.cuts(self.log):
            data, position = cut.data, cut.position
            for feed in cut.members:
                if cut.awaited_by(feed) and data:
                    feed.position = position
                    writes += 1
        return time.process_time() - begun + writes * self.write, writes

    def run(self, seconds: float) -> tuple[float, float, float]:
        """How busy it is, how old the oldest event of a tick is when it is out (the median and the
        99th percentile, in seconds)."""
        rate = self.work.rate
        now = last = busy = 0.0
        ages: list[float] = []
        while now < seconds:
            count = int((now - last) * rate)
            if not count:
                now = max(now, last + 1 / rate)
                count = 1
            cost, _ = self.tick(count)
            busy += cost
            ages.append(now + cost - (last + 1 / rate))
            last += count / rate
            now += cost
        ages.sort()
        return busy / now, ages[len(ages) // 2], ages[int(len(ages) * 0.99)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--clients", type=int, default=1_000_000, help="of all nodes")
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--write", type=float, default=9.0, help="microseconds of one")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the simulation")
    options = parser.parse_args(argv)
    rows = []
    for work, nodes in itertools.product(WORK, options.nodes):
        node = Node(work, options.clients // nodes, nodes, options.write / 1e6)
        busy, median, late = node.run(options.seconds)
        row = (work.name, f"{nodes}", f"{options.clients // nodes:,}", f"{busy:.0%}")
        rows.append((*row, f"{median * 1e3:,.0f}", f"{late * 1e3:,.0f}"))
        print(" · ".join(rows[-1]), flush=True)
    header = ("", "nodes", "clients of each", "its core is busy", "p50 ms", "p99 ms")
    print(f"\n{table(header, rows)}")


if __name__ == "__main__":
    main()
