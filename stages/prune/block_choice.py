"""Which blocks a prune removes: listed, or chosen from a scan so that enough is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attar.compressors.models.blocks import check_removal
from attar.compressors.prune.depth.block_cost import Costs
from attar.compressors.prune.depth.metrics import PATCH_METRICS, REMOVAL_METRICS
from attar.compressors.prune.depth.select import (
    Saving,
    check_can_be_met,
    choose_free,
    choose_in_order,
    choose_window,
    protected_blocks,
)
from attar.registry.artifacts.facts import Facts, several
from attar.registry.artifacts.handles import ScanArtifact
from attar.stages.prune.config import PruneConfig
from attar.stages.scan.tables import COST_TABLE, GREEDY_TABLE, TABLE, read_costs, read_order, read_scores


def chosen_blocks(config: PruneConfig, scan: ScanArtifact | None) -> list[int]:
    """Return the indices to remove, in order. Raises ValueError when no choice saves enough or the scan lacks what it takes."""
    if config.blocks:
        return sorted(config.blocks)
    assert scan is not None, "the forecast refuses a choice without a scan"
    num_blocks = scan.facts.num_blocks
    protected = protected_blocks(num_blocks, config.protect_first, config.protect_last)
    costed = [name for name in config.keep_fraction if name != "blocks"]
    savings = _savings(config, num_blocks, {name: read_costs(scan.path / COST_TABLE, name) for name in costed})
    if config.choice == "free" and config.metric in REMOVAL_METRICS:
        return choose_in_order(read_order(scan.path / GREEDY_TABLE, config.metric), savings, protected)
    scores = read_scores(scan.path / TABLE, config.metric)
    if config.choice == "free":
        return choose_free(scores, savings, protected)
    if config.patch.kind == "linear":  # a patch needs a block before its window
        scores = {window: score for window, score in scores.items() if window[0] > 0}
    return choose_window(scores, savings, protected)


def requested_blocks(config: PruneConfig, num_blocks: int) -> int:
    """Return how many of so many blocks go by the config's own words. 0 where it depends on what they cost."""
    if config.keep_fraction.keys() == {"blocks"}:
        return max(1, num_blocks - math.floor(config.keep_fraction["blocks"] * num_blocks + 1e-9))
    return config.num_blocks


def check_choice(config: PruneConfig, model: Facts, scan: Facts | None) -> None:
    """Raise ValueError for a choice that the facts of model and scan already rule out."""
    num_blocks = model.get("num_blocks")
    if num_blocks is not None:
        _check_blocks(config, int(num_blocks))
    if scan is None or "metrics" not in scan:
        return
    known = several(scan, "metrics")
    if config.metric not in known:
        raise ValueError(f"metric is {config.metric!r}, which the scan does not compute; it has {', '.join(known)}")
    if "latency" in config.keep_fraction and not scan["has_latency"]:
        raise ValueError("keep_fraction.latency needs a scan with measure_latency: true")
    sizes = [*several(scan, "sizes")]
    needs_size = config.metric in PATCH_METRICS or config.metric in REMOVAL_METRICS
    count = requested_blocks(config, int(num_blocks)) if num_blocks is not None else config.num_blocks
    if config.choice == "window" and count and needs_size and count not in sizes:
        raise ValueError(
            f"metric {config.metric} was not computed for windows of {count} blocks; the scan's sizes: {sizes}"
        )
    num_steps = int(scan["num_greedy_steps"])
    if config.choice == "free" and config.metric in REMOVAL_METRICS and count > num_steps:
        raise ValueError(f"num_blocks is {count}, but the scan's num_greedy_steps is {num_steps}; raise that")


def _check_blocks(config: PruneConfig, num_blocks: int) -> None:
    protected = protected_blocks(num_blocks, config.protect_first, config.protect_last)
    if config.blocks:
        check_removal(num_blocks, config.blocks)
        is_protected = sorted(protected.intersection(config.blocks))
        if is_protected:
            raise ValueError(f"blocks names {is_protected}, which protect_first or protect_last protects")
    elif config.num_blocks >= num_blocks:
        raise ValueError(
            f"num_blocks is {config.num_blocks}, but the model has {num_blocks}; accepted: 1 to {num_blocks - 1}"
        )
    elif requested_blocks(config, num_blocks):
        check_can_be_met(_savings(config, num_blocks, {}), protected)


def _savings(config: PruneConfig, num_blocks: int, costs: Mapping[str, Costs]) -> Sequence[Saving]:
    if config.num_blocks:
        return [Saving.of_count(config.num_blocks, num_blocks)]
    of_blocks = [
        Saving.of_count(num_blocks - math.floor(fraction * num_blocks + 1e-9), num_blocks)
        for name, fraction in config.keep_fraction.items()
        if name == "blocks"
    ]
    fractions = [(name, fraction) for name, fraction in config.keep_fraction.items() if name in costs]
    return of_blocks + [Saving.of_quantity(name, costs[name], fraction) for name, fraction in fractions]
