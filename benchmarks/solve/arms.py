"""What the study compares: plans of one axis and solved ones, and the models that they are carried out on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from texts import Texts

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.depth.calibration import Batch, Sample, batches
from attar.compressors.prune.depth.scan import WindowScan
from attar.compressors.prune.depth.scores.angular_distance import AngularDistance
from attar.compressors.prune.depth.scores.removal import KLIncrease
from attar.compressors.prune.solve.candidates import (
    Units,
    channel_items,
    depth_items,
    group_items,
    score_units,
    seam_items,
)
from attar.compressors.prune.solve.costs import PartCosts, part_costs
from attar.compressors.prune.solve.exact import solve
from attar.compressors.prune.solve.hidden import hidden_items
from attar.compressors.prune.solve.items import Plan, Problem, scaled
from attar.compressors.prune.solve.probe import Probe
from attar.compressors.prune.solve.shape import Shape
from attar.compressors.prune.solve.vocabulary import FewerTokens, vocabulary_items
from attar.compressors.prune.vocabulary.tables import cut_vocabulary
from attar.stages.artifacts.model.folder import load_model
from attar.stages.prune.solved import Repair, carried_out
from attar.stages.scan.vocabulary import smaller_vocabularies

RIDGE, BATCH_SIZE = 0.2, 8
CHANNEL_FRACTIONS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
VOCABULARY_SIZES = (12288, 16384, 20480, 24576, 28672, 32768)
# Texts of the probed ones, spread over the kinds, on which blocks and widths are measured; a vocabulary is measured on twice as many.
PROBED_STEP = 4
AXES = ("depth", "seams", "channels", "groups", "hidden")
# Of the residual stream: widths that SmolLM2's 9, 6 or 3 heads divide, and by which 0.85, 0.75 and 0.6 of the parameters, or 24 blocks, are met.
HIDDEN_WIDTHS = (342, 432, 468, 486, 504, 540)


@dataclass(frozen=True)
class Arm:
    """A plan with its name."""

    name: str
    plan: Plan


@dataclass(frozen=True)
class Measured:
    """All candidates of one seed, and what carries them out."""

    problem: Problem
    costs: Mapping[str, PartCosts]
    units: Units
    vocabularies: Mapping[int, FewerTokens]
    window_scores: Mapping[tuple[int, int], float]

    def left_without_blocks(self, count: int, quantity: str = "parameters") -> float:
        """Return what is left of a quantity without so many blocks of the mean cost."""
        cost = self.costs[quantity]
        return cost.total - count * (cost.total - cost.rest) / len(cost.attention)


def measure_candidates(whole: Any, tokenizer: Any, folder: Path, texts: Texts) -> Measured:
    """Measure every axis on a seed's texts."""
    costs = part_costs(whole, is_timed=True)
    scoring = scored_batches(whole, texts)
    probed = [
        *batches(
            [Sample(ids) for ids in sorted(texts.probed[::PROBED_STEP], key=len)], 4, whole.device, skip_first=False
        )
    ]
    units = score_units(whole, scoring, AXES)
    probe = Probe(whole, probed, KLIncrease())
    nothing = frozenset()
    num_channels = len(units.of_axis["channels"][0])
    counts = [round(fraction * num_channels / 32) * 32 for fraction in CHANNEL_FRACTIONS]
    smaller = smaller_vocabularies(folder, tokenizer, whole.config.vocab_size, texts.corpus, VOCABULARY_SIZES)
    vocabularies = {len(choice.kept_ids): choice for choice in smaller}
    items = [
        *depth_items(probe, costs, nothing, print_nothing),
        *seam_items(probe, costs, nothing, print_nothing),
        *channel_items(probe, costs, units, counts, 8, print_nothing),
        *group_items(probe, costs, units, print_nothing),
        *hidden_items(probe, costs, units, "hidden", HIDDEN_WIDTHS, print_nothing),
        *vocabulary_items(whole, texts.probed[:: PROBED_STEP // 2], list(vocabularies.values()), costs),
    ]
    scan = WindowScan({"angular_distance": AngularDistance()})
    for batch in scoring:
        with torch.inference_mode():
            scan.update(whole, batch.input_ids, batch.attention_mask)
    totals = {name: cost.total for name, cost in costs.items()}
    problem = Problem(totals, len(decoder_blocks(whole)), items)
    return Measured(problem, costs, units, vocabularies, scan.scores("angular_distance"))


def redrawn(measured: Measured, whole: Any, texts: Texts) -> Measured:
    """Return the same candidates with units ranked on another seed's texts."""
    return replace(measured, units=score_units(whole, scored_batches(whole, texts), AXES))


def scored_batches(whole: Any, texts: Texts) -> list[Batch]:
    stride = max(1, len(texts.calibration) // 16)
    samples = [Sample(ids) for ids in texts.calibration[::stride][:16]]
    return [*batches(samples, 4, whole.device, skip_first=False)]


def single_axis_plans(measured: Measured, budget: Mapping[str, float], name: str) -> list[Arm]:
    """Return single axes at a budget: the window of lowest angular distance, fewer channels, a narrower stream."""
    problem = measured.problem
    by_axis = {axis: [item for item in problem.items if item.axis == axis] for axis in ("depth", "channels", "hidden")}
    quantity, most = next(iter(budget.items()))
    block = (problem.totals[quantity] - measured.costs[quantity].rest) / problem.num_blocks
    size = -int(-(problem.totals[quantity] - most) * (1 - 1e-9) // block)
    windows = {first: score for (first, count), score in measured.window_scores.items() if count == size}
    first = min(windows, key=windows.__getitem__)
    plans = {"window": Plan.of(problem, [item for item in by_axis["depth"] if first <= item.amount < first + size])}
    for axis in ("channels", "hidden"):
        try:
            plans[axis] = solve(Problem(problem.totals, problem.num_blocks, by_axis[axis]), budget)
        except ValueError as error:  # not this axis alone
            print(f"{axis}-{name}: {error}", flush=True)
    return [Arm(f"{axis}-{name}", plan) for axis, plan in plans.items()]


def cut_model(
    plan: Plan, measured: Measured, whole: Any, folder: Path, calibration: Sequence[Sequence[int]]
) -> tuple[Any, FewerTokens]:
    """Return a plan's model and its vocabulary: cut, refitted where there are texts, then without the rows that go."""
    own = Plan.of(measured.problem, [item for item in plan.items if item.axis != "vocabulary"])
    shape = Shape.of(own, measured.problem.num_blocks, measured.units)
    student = load_model(folder, torch.bfloat16)
    repair = Repair(whole, calibration, [], RIDGE, BATCH_SIZE) if calibration else None
    if own.items:
        carried_out(student, shape, repair)
    sizes = plan.amounts("vocabulary")
    everything = FewerTokens(range(whole.config.vocab_size), {})
    vocabulary = measured.vocabularies[sizes[0]] if sizes else everything
    if sizes:
        cut_vocabulary(student, vocabulary.kept_ids)
    return student, vocabulary


def with_repair(measured: Measured, window: Mapping[str, Any], channels: Mapping[str, Any]) -> Measured:
    """Return the candidates with the losses that a repair leaves: by axis, the share that one trial of it left on the probed texts.

    Seams are repaired as blocks are, KV groups as channels; a vocabulary is not repaired, a narrower stream not tried.
    """
    shares = {}
    for trial, axes in ((window, ("depth", "seams")), (channels, ("channels", "groups"))):
        measured_nats = sum(row[0] for row in trial["probed"]) / sum(row[1] for row in trial["probed"])
        shares |= dict.fromkeys(axes, measured_nats / trial["predicted_nats"])
    print("left by the repair:", {axis: round(value, 3) for axis, value in shares.items()}, flush=True)
    return replace(measured, problem=scaled(measured.problem, shares))


def without(problem: Problem, axis: str) -> Problem:
    return Problem(problem.totals, problem.num_blocks, [item for item in problem.items if item.axis != axis])


def print_nothing(count: int) -> None:
    """Count nothing."""
