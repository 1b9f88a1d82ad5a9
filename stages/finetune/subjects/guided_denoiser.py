"""What is apart in a denoiser's training for guidance. Its adapters, and the paths of the guided sampler that they learn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from attar.compressors.diffusion.net import predictor
from attar.compressors.distill.examples.guided_paths import GuidedPaths, VisitedStates
from attar.compressors.guidance.denoiser import GuidedDenoiser, ScaleAdapters
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.denoiser.folder import Denoiser
from attar.stages.artifacts.denoiser.guidance import save_guidance
from attar.stages.finetune.plan import Adaptation, TrainingPlan
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import bar, metric, note

# Held-out states come of paths of their own, a tenth as many and never fewer than these.
MIN_HELDOUT_PATHS = 20
# Apart from any seed of a training's own paths.
HELDOUT_SEED = 1_000_000_007


def check_adaptation(kind: str, objectives: Mapping[str, Any]) -> None:
    """Raise ValueError for scales that what learns of a denoiser is not told."""
    for name, objective in objectives.items():
        low, high = (getattr(objective, field, None) for field in ("min_scale", "max_scale"))
        if kind == "guidance" and (low is None or len(objectives) > 1):
            raise ValueError(
                f"objectives are {', '.join(objectives)}, but adapt.kind is 'guidance', whose adapters are told a scale; accepted: "
                "guided_distance alone"
            )
        if kind == "full" and low != high:
            raise ValueError(
                f"objectives.{name} draws scales from {low:g} to {high:g}, but adapt.kind is 'full', whose net is told none; accepted: "
                "max_scale equal to min_scale, or adapt.kind guidance"
            )


def guidance_facts(objectives: Mapping[str, Any]) -> Facts:
    """Return what is known of adapters before they have learned: the scales that they will."""
    [objective] = objectives.values()
    return {"min_scale": objective.min_scale, "max_scale": objective.max_scale}


def guided_student(plan: TrainingPlan, denoiser: Denoiser) -> GuidedDenoiser:
    """Return the frozen net with fresh adapters for the scales that its objective draws."""
    [objective] = plan.reduction.objectives.values()
    attentions = denoiser.kind.attentions(denoiser.net)
    method, scales = cast(ScaleAdapters, plan.adaptation.method), cast(Any, objective)
    adapters = method.built(attentions, scales.min_scale, scales.max_scale).to(plan.device)
    return GuidedDenoiser(denoiser.net, attentions, adapters)


def rolled_paths(
    paths: GuidedPaths, teacher: Denoiser, data: Sequence[Any], seed: int, *, is_heldout: bool
) -> VisitedStates:
    """Return the states of guided paths, always the same of one seed; held-out ones come of other noise."""
    if is_heldout:
        paths = replace(paths, num_rollouts=max(MIN_HELDOUT_PATHS, paths.num_rollouts // 10))
    counter = bar(f"rolling out {'held-out ' if is_heldout else ''}guided paths", paths.num_rollouts, "paths")
    device = next(teacher.net.parameters()).device
    predict = predictor(teacher.net)
    return paths.over(
        lambda states, times, classes: predict(states.to(device), times.to(device), classes.to(device)).cpu(),
        teacher.process,
        teacher.shape,
        max(some.facts.num_classes for some in data),
        teacher.num_labels - 1,
        seed + HELDOUT_SEED * is_heldout,
        counter.advance,
    )


def write_guidance(run: TrainingRun, adaptation: Adaptation, base: Any, content: Path) -> Facts:
    """Write trained adapters, and tell what of the error without them they leave on held-out states."""
    share = _error_share(run)
    if share is not None:
        metric("guidance_error_ratio", share)
        note(
            f"one pass leaves {share:.3f} of the squared error to two passes that the conditional pass makes, held out"
        )
    method = cast(ScaleAdapters, adaptation.method)
    facts = save_guidance(content, run.student.guidance, method, {base.fingerprint: share})
    return {**facts, **({} if share is None else {"guidance_error_ratio": share})}


def _error_share(run: TrainingRun) -> float | None:
    """Return the held-out loss of the kept weights over that of the first, which add nothing. None where nothing is held out."""
    losses = [entry["value"] for entry in run.history if entry["name"].startswith("heldout_")]
    score = run.best["score"]
    return float(score[0] / losses[0]) if losses and losses[0] and score else None
