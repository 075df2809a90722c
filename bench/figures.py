"""What is read from an outcome, under the names that tables, goals and plots use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from bench import lib


@dataclasses.dataclass(frozen=True)
class Figure:
    form: str
    """How it is written."""

    of: Callable[[lib.Outcome], float]
    """Raises KeyError if the outcome does not have it."""


def _quantile(histogram: str, name: str) -> Figure:
    return Figure("{:.1f}", lambda o: float(o[histogram][name]))


def _storm(name: str, key: str | None = None) -> Figure:
    def of(o: lib.Outcome) -> float:
        found = o["storm"][name]
        return float(found if key is None else found[key])

    return Figure("{:.0f}", of)


def _each(o: lib.Outcome) -> float:
    return max(float(o["deliveries"]), 1)


FIGURES = {
    "million/s": Figure("{:.2f}", lambda o: o["per_second"] / 1e6),
    "events/s": Figure("{:,.0f}", lambda o: o["rate"]),
    "p50 ms": _quantile("latency_ms", "p50"),
    "p99 ms": _quantile("latency_ms", "p99"),
    "last client p50 ms": _quantile("last_ms", "p50"),
    "last client p99 ms": _quantile("last_ms", "p99"),
    "server s/million": Figure("{:.3f}", lambda o: o["server"]["cpu_seconds"] / _each(o) * 1e6),
    "bytes/delivery": Figure("{:.1f}", lambda o: o["bytes"] / _each(o)),
    "client busy": Figure("{:.2f}", lambda o: o["busy"]),
    "others' cores": Figure("{:.2f}", lambda o: o["others"]),
    "call p50 ms": _quantile("rpc_ms", "p50"),
    "call p90 ms": _quantile("rpc_ms", "p90"),
    "call p99 ms": _quantile("rpc_ms", "p99"),
    "call max ms": _quantile("rpc_ms", "max"),
    "call errors": Figure("{:,.0f}", lambda o: o["rpc_errors"]),
    "server KiB/client": Figure("{:.2f}", lambda o: o["idle"]["rss"] / o["clients"] / 1024),
    "slabs KiB/connection": Figure("{:.2f}", lambda o: o["idle"]["slabs"] / o["clients"] / 1024),
    "connects/s": Figure("{:,.0f}", lambda o: o["clients"] / o["connect_seconds"]),
    "server MiB": Figure("{:.1f}", lambda o: o["memory"]["rss"] / 2**20),
    "queued MiB": Figure("{:.1f}", lambda o: o["memory"]["kernel"] / 2**20),
    "missed events": _storm("missed"),
    "half live ms": _storm("live_ms", "p50"),
    "all live ms": _storm("live_ms", "max"),
    "loop held ms, drop": _storm("drop_stall_ms"),
    "return": _storm("return_stall_ms"),
    "by itself, drop": _storm("drop_own_stall_ms"),
    "by itself, return": _storm("return_own_stall_ms"),
    "command p50 ms": _storm("return_trip_ms", "p50"),
    "command p99 ms": _storm("return_trip_ms", "p99"),
    "command max ms": _storm("return_trip_ms", "max"),
}


def values(name: str, outcomes: Iterable[lib.Outcome]) -> list[float]:
    """The figure of each outcome that has it."""
    found = []
    for outcome in outcomes:
        try:
            found.append(FIGURES[name].of(outcome))
        except KeyError:
            continue
    return found


def spread(name: str, outcomes: Sequence[lib.Outcome]) -> str:
    """The median, and from where to where, if that is not one and the same; "" without any."""
    found = values(name, outcomes)
    if not found:
        return ""
    form = FIGURES[name].form
    texts = [form.format(value) for value in (lib.median(found), min(found), max(found))]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"
