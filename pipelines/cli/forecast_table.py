"""A plan as a person reads it: sizes with their units, minutes, and a dash for what is not known."""

from __future__ import annotations

from collections.abc import Iterable

from attar.pipelines.recipe.plan import PlannedNode

UNKNOWN = "-"
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def plan_rows(plan: Iterable[PlannedNode]) -> list[dict[str, str]]:
    """Return one row a node."""
    return [
        {
            "node": planned.node.name,
            "stage": _stage(planned),
            "state": planned.state,
            "key": planned.key[:12],
            "FLOPs": with_prefix(planned.forecast.num_flops),
            "FLOPs/token": with_prefix(planned.flops_per_token),
            "memory": with_prefix(planned.forecast.peak_memory_bytes, "B"),
            "disk": with_prefix(planned.forecast.disk_bytes, "B"),
            "minutes": minutes(planned.seconds),
        }
        for planned in plan
    ]


def _stage(planned: PlannedNode) -> str:
    name, num_shards = planned.node.stage.name, planned.node.shards
    return name if num_shards == 1 else f"{name}, {num_shards} shards"


def plan_total(plan: Iterable[PlannedNode]) -> str:
    """Return a line on how long it takes, and of how many nodes that is not known."""
    nodes = [planned for planned in plan if planned.state != "hit"]
    times = [planned.seconds for planned in nodes if planned.seconds is not None]
    if not nodes:
        return "Everything is stored: nothing is to be built."
    known = (
        f"About {minutes(sum(times))} minutes for {len(times)} of the {len(nodes)} nodes to be built, one after another"
    )
    if not times:
        known = f"How long it takes is not known: none of the {len(nodes)} nodes' stages has run on this machine at such a size"
    return f"{known}. {UNKNOWN} is what is not known yet."


def with_prefix(value: float, unit: str = "") -> str:
    """Return a number to three digits with its prefix, such as 1.23 T. A dash for 0, which is not known."""
    if not value:
        return UNKNOWN
    scale, prefix = next(((scale, prefix) for scale, prefix in PREFIXES if value >= 0.9995 * scale), (1.0, ""))
    return f"{_digits(value / scale)} {prefix}{unit}".rstrip()


def minutes(seconds: float | None) -> str:
    """Return seconds as minutes: below a tenth in hundredths, above ten whole."""
    if seconds is None:
        return UNKNOWN
    value = seconds / 60
    return "0" if not seconds else "<0.01" if value < 0.005 else f"{value:.2f}" if value < 1 else _digits(value)


def _digits(value: float) -> str:
    return f"{value:,.2f}" if value < 9.995 else f"{value:,.1f}" if value < 99.95 else f"{value:,.0f}"
