"""Carry a solved plan out. Cut every axis of it, repair, and measure again beside what was predicted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.compressors.measure.closeness import closeness, ratio_of_sums
from attar.compressors.models.runner import TorchRunner
from attar.compressors.prune.hidden.cut import KeptChannels
from attar.compressors.prune.hidden.refit import StreamRefit
from attar.compressors.prune.hidden.rotate import rotate_stream
from attar.compressors.prune.solve.candidates import Units
from attar.compressors.prune.solve.exact import pareto, solve
from attar.compressors.prune.solve.items import Plan, Problem, scaled
from attar.compressors.prune.solve.shape import OWN_AXES, Shape, cut_to, shaped
from attar.compressors.prune.solve.trials import repair_shares
from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.compressors.prune.width.parts import Part
from attar.compressors.prune.width.refit import Refit
from attar.registry.artifacts.facts import Facts, several
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import ScanArtifact
from attar.stages.artifacts.dataset.samples import run_through
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.proof import check_kept, kept_logits
from attar.stages.prune.config import PlanConfig
from attar.stages.prune.plan_vocabulary import PlannedVocabulary
from attar.stages.prune.refit_pass import refit_result
from attar.stages.runtime.progress import metric, note
from attar.stages.scan.candidates import read_problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# File in a model's records with the plan, its figures and all plans on the front.
PLAN_RECORD = "plan.json"
# Penalty of the width's own repair, relative to each unit's mean square, as `narrow` has it.
WIDTH_RIDGE = 1e-1
NUM_MEASURED_ROWS = 16


def check_plan(plan: PlanConfig, scan: Facts | None) -> None:
    """Raise ValueError for a plan that the facts of its scan already rule out."""
    if scan is None or "axes" not in scan:
        return
    axes = several(scan, "axes")
    if not axes:
        raise ValueError("plan needs candidates, but the scan measured none; list axes in the scan's candidates.axes")
    for axis in plan.axes:
        if axis not in axes:
            raise ValueError(f"plan.axes names {axis!r}, which the scan did not measure; it has {', '.join(axes)}")
    if "ms" in plan.budget and not scan["has_latency"]:
        raise ValueError("plan.budget.ms needs a scan with measure_latency: true")


@dataclass(frozen=True)
class Repair:
    """What a cut is led back to. `samples`: token ids that it is fitted on; `rows`: those that its loss is measured on."""

    original: PreTrainedModel
    samples: Sequence[Sequence[int]]
    rows: Sequence[Sequence[int]]
    ridge: float
    batch_size: int

    def measured_nats(
        self, model: PreTrainedModel, vocabulary: PlannedVocabulary | None = None
    ) -> dict[str, float] | None:
        """Return KL(original || model) in nats a token, with its 95% interval over rows. None where no row is held out."""
        if self.rows and vocabulary is not None and not vocabulary.is_whole:
            return vocabulary.measured_nats(model, self.original, self.rows)
        pairs = [(list(row[:1]), list(row[1:])) for row in self.rows]
        if not pairs:
            return None
        texts = closeness(TorchRunner(model), TorchRunner(self.original), pairs, batch_size=4)
        estimate = ratio_of_sums([text.kl_nats for text in texts], [text.num_tokens for text in texts])
        return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def solved(
    config: PlanConfig, scan: ScanArtifact, folder: Path, repair: Repair | None = None
) -> tuple[Problem, Plan, Shape]:
    """Return the candidates that may be used, the best plan of them under the budget, and its shape.

    Raises ValueError, with the nearest budget that can be met, when no plan meets it.
    """
    problem, units = read_problem(scan.path)
    axes = {*(config.axes or several(scan.facts, "axes"))}
    axes |= {"seam_ends"} if "seams" in axes else set()
    problem = Problem(problem.totals, problem.num_blocks, [item for item in problem.items if item.axis in axes])
    missing = [quantity for quantity in config.budget if quantity not in problem.totals]
    if missing:
        raise ValueError(f"plan.budget names {missing[0]}, which the scan did not measure: {', '.join(problem.totals)}")
    budget = {quantity: fraction * problem.totals[quantity] for quantity, fraction in config.budget.items()}
    if config.trials and repair is not None:
        problem = _tried(problem, budget, units, folder, repair)
    try:
        plan = solve(problem, budget)
    except ValueError as error:
        raise ValueError(f"plan.{error}{_as_shares(problem)}") from error
    shape = Shape.of(plan, problem.num_blocks, units)
    if shape.others:
        raise ValueError(f"plan takes {', '.join(shape.others)}; prune carries out {', '.join(OWN_AXES)}")
    left = ", ".join(f"{value / problem.totals[name]:.3f} of {name}" for name, value in plan.left.items())
    note(f"plan: {plan}; predicted {plan.predicted_nats:.4g} nats a token; leaves {left}")
    return problem, plan, shape


def carried_out(model: PreTrainedModel, shape: Shape, repair: Repair | None) -> torch.Tensor:
    """Cut `model` in place, repaired where that is wanted; return its logits on the proof's prompts.

    What is left must first speak as the whole model does with all that goes silenced.
    """
    if shape.stream is not None and shape.stream.rotation is not None:
        expected = kept_logits(model, "prune")
        rotate_stream(model, shape.stream.rotation)
        check_kept(model, expected, "prune")
    if repair is not None and shape.stream is not None:
        _fold_stream(model, shape.stream, repair)
    if repair is not None:
        for axis, units in (("channels", shape.channels), ("groups", shape.groups)):
            if units is not None:
                _fold(axis, model, units, repair)
    with shaped(model, shape):
        expected = kept_logits(model, "prune")
    cut_to(model, shape)
    check_kept(model, expected, "prune")
    if repair is None or shape.first_changed >= len(shape.matches.was):
        return expected
    refit_result(
        model,
        repair.original,
        repair.samples,
        shape.matches,
        first=shape.first_changed,
        ridge=repair.ridge,
        batch_size=repair.batch_size,
        channels=shape.stream.of if shape.stream is not None else None,
    )
    return kept_logits(model, "prune")


def _tried(problem: Problem, budget: Mapping[str, float], units: Units, folder: Path, repair: Repair) -> Problem:
    """Return the problem with every axis priced by what one repaired trial of it lost."""
    if not repair.rows:
        raise ValueError("plan.trials needs rows that nothing is fitted on; give data with held-out rows")

    def trial(plan: Plan) -> float:
        model = load_model(folder, "auto", repair.original.device)
        carried_out(model, Shape.of(plan, problem.num_blocks, units), repair)
        measured = repair.measured_nats(model)
        assert measured is not None, "there are rows"
        note(
            f"trial of {plan}: predicted {plan.predicted_nats:.4g} nats a token bare, {measured['value']:.4g} repaired"
        )
        return measured["value"]

    shares = repair_shares(problem, budget, trial)
    for axis, share in shares.items():
        metric(f"{axis}_repair_share", share)
    return scaled(problem, shares)


def write_plan(
    content: Path, config: PlanConfig, problem: Problem, plan: Plan, measured: Mapping[str, float] | None
) -> None:
    """Write the plan, what it predicted beside what was measured, and every plan on the front of each budgeted quantity."""
    record: dict[str, Any] = {
        "budget": dict(config.budget),
        "items": [{"axis": item.axis, "where": item.where, "loss_nats": item.loss_nats} for item in plan.items],
        "predicted_nats": plan.predicted_nats,
        "measured_nats": dict(measured) if measured else None,
        "totals": dict(problem.totals),
        "left": dict(plan.left),
        "fronts": {quantity: _front(problem, quantity) for quantity in config.budget},
    }
    (content / RECORDS_FOLDER).mkdir(exist_ok=True)
    (content / RECORDS_FOLDER / PLAN_RECORD).write_text(json.dumps(record, indent=1))
    metric("plan_predicted_nats", plan.predicted_nats)
    if measured:
        metric("plan_measured_nats", measured["value"])
        note(
            f"predicted {plan.predicted_nats:.4g} nats a token, measured {measured['value']:.4g} "
            f"[{measured['low']:.4g}, {measured['high']:.4g}] after its repair"
        )


def _front(problem: Problem, quantity: str) -> list[dict[str, Any]]:
    return [
        {"left": point.left[quantity], "predicted_nats": point.predicted_nats, "plan": str(point)}
        for point in pareto(problem, quantity)
    ]


def _fold(axis: str, model: PreTrainedModel, units: Sequence, repair: Repair) -> None:
    """Let the units that stay take over, by least squares, what the others contributed."""

    def parts(of: PreTrainedModel) -> list[Part]:
        return feed_forward_parts(of) if axis == "channels" else attention_parts(of)

    fit = Refit(parts(repair.original))
    run_through(repair.original, repair.samples, repair.batch_size, fit.update, f"fitting {axis}")
    for index, (part, stays) in enumerate(zip(parts(model), units, strict=True)):
        metric(f"{axis}_patch_residual_fraction", fit.fold(index, part, stays, WIDTH_RIDGE), step=index)


def _fold_stream(model: PreTrainedModel, channels: KeptChannels, repair: Repair) -> None:
    """Let what reads the stream take from the channels that stay, by least squares, what the others held."""
    fit = StreamRefit(channels.rotated)
    source = repair.original if channels.rotation is None else model
    run_through(source, repair.samples, repair.batch_size, fit.update, "fitting the stream")
    for index, left in enumerate(fit.fold(model, WIDTH_RIDGE)):
        metric("stream_patch_residual_fraction", left, step=index)


def _as_shares(problem: Problem) -> str:
    return f"; the whole model has {', '.join(f'{name} {value:.6g}' for name, value in problem.totals.items())}"
