"""The tables of a scan artifact: scores of windows, greedy orders, costs of blocks."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.catalogue import did_you_mean
from attar.compressors.prune.depth.block_cost import Costs
from attar.compressors.prune.depth.removal import Removal
from attar.compressors.prune.depth.scan import Scores

# A line a window (a single block is a window of one): num_blocks, first_block, a column for each metric; empty where not scored.
TABLE = "windows.csv"
# A line a removal: metric, step, block, score_nats.
GREEDY_TABLE = "greedy.csv"
# A line a block and one for the rest of the model: part, a column for each quantity.
COST_TABLE = "costs.csv"
# A line a block: 1 - cos of the states around its attention part and around its feed-forward part.
PART_TABLE = "parts.csv"
REST = "rest"


def write_scores(path: Path, num_blocks: int, scores: Mapping[str, Scores]) -> None:
    """Write one line for each window of a model of `num_blocks` blocks."""
    windows = [(first, size) for size in range(1, num_blocks + 1) for first in range(num_blocks - size + 1)]
    rows = ([size, first, *(_number(table.get((first, size))) for table in scores.values())] for first, size in windows)
    _write(path, ["num_blocks", "first_block", *scores], rows)


def scored_metrics(path: Path) -> list[str]:
    """Return the metrics that have a column."""
    with path.open(newline="") as stream:
        return next(csv.reader(stream))[2:]


def read_scores(path: Path, metric_name: str) -> Scores:
    """Read one metric's scores by (first block, number of blocks). Raises ValueError when the scan did not compute it."""
    known = scored_metrics(path)
    if metric_name not in known:
        raise ValueError(f"the scan has no windows scored by {metric_name!r}.{did_you_mean(metric_name, known)}")
    return {
        (int(row["first_block"]), int(row["num_blocks"])): float(row[metric_name])
        for row in _rows(path)
        if row[metric_name]
    }


def write_orders(path: Path, orders: Mapping[str, Sequence[Removal]]) -> None:
    """Write the greedy orders."""
    rows = (
        [name, step, removal.block, _number(removal.score_nats)]
        for name, order in orders.items()
        for step, removal in enumerate(order)
    )
    _write(path, ["metric", "step", "block", "score_nats"], rows)


def read_order(path: Path, metric_name: str) -> list[int]:
    """Read the blocks that a metric removes, in order. Raises ValueError when the scan has no such order."""
    order = [int(row["block"]) for row in _rows(path) if row["metric"] == metric_name] if path.exists() else []
    if not order:
        raise ValueError(f"the scan has no greedy order by {metric_name!r}; add it to the scan's metrics")
    return order


def write_parts(path: Path, influence: Mapping[str, Sequence[float]]) -> None:
    """Write how far each part of every block turns the state."""
    rows = zip(*influence.values(), strict=True)
    _write(path, ["block", *influence], [[index, *map(_number, row)] for index, row in enumerate(rows)])


def read_parts(path: Path) -> dict[str, list[float]]:
    """Read the influence of each part of every block; empty where the scan has none."""
    if not path.exists():
        return {}
    rows = list(_rows(path))
    return {part: [float(row[part]) for row in rows] for part in rows[0] if part != "block"}


def write_costs(path: Path, costs: Mapping[str, Costs]) -> None:
    """Write what each block and the rest of the model cost."""
    num_blocks = len(next(iter(costs.values())).blocks)
    rows = [[index, *(_number(cost.blocks[index]) for cost in costs.values())] for index in range(num_blocks)]
    _write(path, ["part", *costs], [*rows, [REST, *(_number(cost.rest) for cost in costs.values())]])


def read_costs(path: Path, quantity: str) -> Costs:
    """Read the costs in one quantity. Raises ValueError when the scan did not measure it."""
    rows = list(_rows(path))
    if quantity not in rows[0]:
        raise ValueError(f"the scan did not measure {quantity}; set measure_latency in the scan")
    values = [float(row[quantity]) for row in rows]
    return Costs(tuple(values[:-1]), values[-1])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
