"""Candidates of every axis, measured beside a scan: what a solve chooses from. Config, measurement, tables."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import Field, ValidationInfo, field_validator
from safetensors.torch import load_file, save_file

from attar.compressors.catalogue import did_you_mean
from attar.compressors.prune.depth.calibration import Batch
from attar.compressors.prune.depth.scores.removal import KLIncrease
from attar.compressors.prune.hidden.scores import HIDDEN, ROTATED, StreamUnits
from attar.compressors.prune.solve.candidates import (
    MEASURED_AXES,
    NOT_SAYABLE,
    Units,
    can_say,
    channel_items,
    depth_items,
    group_items,
    score_units,
    seam_items,
)
from attar.compressors.prune.solve.costs import part_costs
from attar.compressors.prune.solve.hidden import hidden_items, stream_widths
from attar.compressors.prune.solve.items import Item, Problem
from attar.compressors.prune.solve.probe import Probe
from attar.compressors.prune.solve.vocabulary import FewerTokens, vocabulary_items
from attar.compressors.prune.width.layout import feed_forward_parts
from attar.stages.contract import StageConfig
from attar.stages.runtime.progress import bar, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A line a candidate, and one for the whole model: axis, where, how it combines with others, loss_nats, a column a quantity it saves.
CANDIDATE_TABLE = "candidates.csv"
# Scores of channels and KV groups, a tensor an axis: blocks by units; and what was seen of the residual stream.
UNIT_SCORES = "units.safetensors"
TOTAL = "total"
COLUMNS = ("axis", "where", "group", "reach", "amount", "block", "parts", "enters", "leaves", "loss_nats")


class CandidatesConfig(StageConfig):
    """Which axes are measured for a solve, and on how much of the calibration text."""

    axes: list[str] = []
    """Axes of which every candidate is run once: depth, seams, channels, groups, hidden, rotated, vocabulary. Empty: none."""

    num_samples: int = Field(default=2, ge=1)
    """How many samples each candidate is run on, evenly spaced among the scan's: KL in nats a token."""

    max_tokens: int = Field(default=128, ge=2)
    """Cut of those samples, in tokens."""

    num_scoring_samples: int = Field(default=8, ge=1)
    """How many samples rank the channels, KV groups and channels of the stream, forward and backward."""

    channel_fractions: list[float] = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    """Shares of the channels at which a width is measured, in (0, 1); between them losses lie on straight lines."""

    channel_step: int = Field(default=32, ge=1)
    """Widths that may be chosen are multiples of this many channels."""

    hidden_fractions: list[float] = [0.75, 0.8125, 0.875, 0.9375]
    """Shares of the residual stream at which a width is measured, in (0, 1); those nearest that the config takes beside its heads."""

    hidden_step: int = Field(default=4, ge=1)
    """Widths of the residual stream that may be chosen are multiples of this many channels."""

    vocabulary_fractions: list[float] = [0.25, 0.33, 0.42, 0.5, 0.67]
    """Shares of the tokens at which a vocabulary is measured, in (0, 1); the training rows choose which tokens stay."""

    num_vocabulary_samples: int = Field(default=4, ge=1)
    """How many samples vocabularies are measured on; they have no part in choosing tokens."""

    @field_validator("axes")
    @classmethod
    def _known_axes(cls, value: list[str]) -> list[str]:
        for axis in value:
            if axis in NOT_SAYABLE:
                raise ValueError(f"axis {axis!r}: {NOT_SAYABLE[axis]}")
            if axis not in MEASURED_AXES:
                raise ValueError(f"unknown axis {axis!r}.{did_you_mean(axis, MEASURED_AXES)}")
        return value

    @field_validator("channel_fractions", "hidden_fractions", "vocabulary_fractions")
    @classmethod
    def _inside(cls, value: list[float], field: ValidationInfo) -> list[float]:
        if not value or any(not 0.0 < fraction < 1.0 for fraction in value):
            raise ValueError(f"{field.field_name} is {value}; accepted: at least one, each above 0 and below 1")
        return sorted(value)


def measure_candidates(
    config: CandidatesConfig,
    model: PreTrainedModel,
    probed: Sequence[Batch],
    scoring: Sequence[Batch],
    protected: frozenset[int],
    vocabularies: Sequence[FewerTokens] = (),
    texts: Sequence[Sequence[int]] = (),
    *,
    is_timed: bool,
) -> tuple[Problem, Units]:
    """Return the candidates of the asked axes, and the scores by which channels and groups stay.

    Raises ValueError when the family's config cannot say an axis, with the reason.
    """
    for axis in config.axes:
        reason = can_say(model, axis)
        if reason:
            family = type(model).__name__
            raise ValueError(f"axis {axis!r}: {family}: {reason.removeprefix(f'{family}: ')}")
    costs = part_costs(model, is_timed=is_timed)
    units = score_units(model, scoring, config.axes)
    probe = Probe(model, probed, KLIncrease())
    counter = bar("candidates", 0, "runs")
    items: list[Item] = []
    if "depth" in config.axes:
        items += depth_items(probe, costs, protected, counter.advance)
    if "seams" in config.axes:
        items += seam_items(probe, costs, protected, counter.advance)
    if "channels" in config.axes:
        counts = channel_counts(config, feed_forward_parts(model)[0].num_units)
        items += channel_items(probe, costs, units, counts, config.channel_step, counter.advance)
    if "groups" in config.axes:
        items += group_items(probe, costs, units, counter.advance)
    for axis in [axis for axis in (HIDDEN, ROTATED) if axis in config.axes]:
        counts = [item.amount for item in items if item.axis == "groups"]
        widths = stream_widths(model, config.hidden_fractions, config.hidden_step, counts)
        items += hidden_items(probe, costs, units, axis, widths, counter.advance)
    items += vocabulary_items(model, texts, vocabularies, costs, counter.advance)
    for axis in config.axes:
        losses = [item.loss_nats for item in items if item.axis == axis]
        if losses:
            note(f"{axis}: {len(losses)} candidates, {min(losses):.3g} to {max(losses):.3g} nats a token each")
    totals = {name: cost.total for name, cost in costs.items()}
    return Problem(totals, len(model_blocks(costs)), tuple(items)), units


def channel_counts(config: CandidatesConfig, num_channels: int) -> list[int]:
    """Return the widths that are measured, ascending, whole steps. Raises ValueError where a step is a whole block."""
    steps = {round(fraction * num_channels / config.channel_step) for fraction in config.channel_fractions}
    counts = sorted(step * config.channel_step for step in steps if 0 < step * config.channel_step < num_channels)
    if not counts:
        raise ValueError(
            f"channel_step is {config.channel_step}, but a block has {num_channels} channels: no width lies between; "
            f"accepted: below {num_channels}"
        )
    return counts


def model_blocks(costs: dict) -> Sequence[float]:
    """Return a value a block, whichever quantity was counted."""
    return next(iter(costs.values())).attention


def write_problem(folder: Path, problem: Problem, units: Units) -> None:
    """Write the candidates as a table, with what the whole model costs as its last line, and the units' scores."""
    with (folder / CANDIDATE_TABLE).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, *problem.totals])
        writer.writeheader()
        for item in problem.items:
            row = {name: getattr(item, name) for name in COLUMNS}
            row |= {"parts": " ".join(item.parts), "block": "" if item.block is None else item.block}
            row |= {name: f"{item.saving(name):.9g}" for name in problem.totals}
            writer.writerow({**row, "loss_nats": f"{item.loss_nats:.9g}"})
        totals = {name: f"{value:.12g}" for name, value in problem.totals.items()}
        writer.writerow({"axis": TOTAL, "amount": problem.num_blocks, **totals})
    tensors = {axis: torch.stack(list(scores)).float() for axis, scores in units.of_axis.items()}
    tensors |= units.stream.tensors() if units.stream is not None else {}
    if tensors:
        save_file(tensors, folder / UNIT_SCORES)


def read_problem(folder: Path) -> tuple[Problem, Units]:
    """Read what `write_problem` wrote. Raises ValueError for a scan that measured no candidates."""
    path = folder / CANDIDATE_TABLE
    if not path.exists():
        raise ValueError("the scan measured no candidates; list axes in its `candidates.axes`")
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    totals = next(row for row in rows if row["axis"] == TOTAL)
    quantities = [name for name in rows[0] if name not in COLUMNS]
    items = tuple(_item(row, quantities) for row in rows if row["axis"] != TOTAL)
    problem = Problem({name: float(totals[name]) for name in quantities}, int(totals["amount"]), items)
    scores = load_file(folder / UNIT_SCORES) if (folder / UNIT_SCORES).exists() else {}
    of_axis = {axis: list(scores[axis]) for axis in ("channels", "groups") if axis in scores}
    return problem, Units(of_axis, StreamUnits.of_tensors(scores))


def _item(row: dict[str, str], quantities: Sequence[str]) -> Item:
    return Item(
        axis=row["axis"],
        where=row["where"],
        loss_nats=float(row["loss_nats"]),
        savings={name: float(row[name]) for name in quantities},
        group=row["group"],
        reach=row["reach"],  # type: ignore[arg-type]
        amount=int(row["amount"]),
        block=int(row["block"]) if row["block"] else None,
        parts=tuple(row["parts"].split()),
        enters=int(row["enters"]),
        leaves=int(row["leaves"]),
    )
