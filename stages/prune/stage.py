"""Stage `prune`: remove decoder blocks, leaving a smaller plain model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attar.compressors.models.blocks import decoder_blocks, only_blocks, remove_blocks
from attar.compressors.models.bypass import handing_on
from attar.compressors.models.skeleton import check_cut
from attar.compressors.prune.depth.block_refit import Matches
from attar.compressors.prune.depth.patch import PatchFit, fold_patch
from attar.compressors.prune.hidden.scores import HIDDEN, ROTATED
from attar.registry.artifacts.facts import Facts, several
from attar.registry.artifacts.handles import AnyModel, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, IMAGES, TAGGER, Subject, form_of, subject_of
from attar.stages.artifacts.dataset.samples import heldout_samples, mixed_samples, run_through
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.model.folder import load_model, save_model
from attar.stages.artifacts.model.placement import Placement
from attar.stages.artifacts.model.proof import check_kept, kept_logits, prove_written
from attar.stages.artifacts.model.size_forecast import blocks_over, stored_bytes, without_blocks
from attar.stages.contract import Forecast, stage
from attar.stages.prune.block_choice import check_choice, chosen_blocks, requested_blocks
from attar.stages.prune.config import WAYS, LinearPatch, NoPatch, PlanConfig, PruneConfig, PruneInputs, RefitPatch
from attar.stages.prune.elastic.stage import forecast_elastic, prune_elastic
from attar.stages.prune.encoder import check_whole_prune, prune_encoder
from attar.stages.prune.image_classifier import check_image_prune, prune_classifier
from attar.stages.prune.plan_vocabulary import PlannedVocabulary
from attar.stages.prune.refit_pass import refit_result
from attar.stages.prune.solved import NUM_MEASURED_ROWS, Repair, carried_out, check_plan, solved, write_plan
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


# Models in memory at once, in float32.
NUM_COPIES = {"none": 2, "linear": 3, "refit": 4}
# What is refused of models of another subject than causal text, and how they are cut.
CHECKS = {
    ENCODER: check_whole_prune,
    CLASSIFIER: partial(check_whole_prune, subject=CLASSIFIER),
    TAGGER: partial(check_whole_prune, subject=TAGGER),
    IMAGES: check_image_prune,
}
RUNS: dict[Subject, Callable[..., AnyModel]] = {
    ENCODER: prune_encoder,
    CLASSIFIER: prune_encoder,
    TAGGER: prune_encoder,
    IMAGES: prune_classifier,
}


def _forecast(config: PruneConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if config.elastic is not None:
        return forecast_elastic(config.elastic, inputs)
    if inputs.get("teacher"):
        raise ValueError(
            "the input `teacher` is what elastic.budget compares sub-networks with; accepted: with that alone"
        )
    refuse_other_data(inputs["model"][0], inputs.get("data", ()))
    if not config.blocks and "scan" not in inputs:
        way = next(name for name in WAYS if getattr(config, name))
        raise ValueError(f"{way} needs the input `scan`; without one, list `blocks`")
    if (config.patch.kind != "none") != bool(inputs.get("data")):
        raise ValueError(
            f"patch.kind is {config.patch.kind!r}: the input `data` is for patches 'linear' and 'refit', and needed there"
        )
    removed = sorted(config.blocks)
    if config.patch.kind == "linear" and removed and removed != list(range(removed[0], removed[-1] + 1)):
        raise ValueError(
            f"patch.kind is {config.patch.kind!r}, but blocks {removed} are not one window; it repairs one cut, refit any"
        )
    model = inputs["model"][0]
    CHECKS.get(subject_of(model), lambda config: None)(config)
    if config.plan is not None:
        return _forecast_of_plan(config, config.plan, model, inputs["scan"][0])
    check_choice(config, model, inputs["scan"][0] if "scan" in inputs and not config.blocks else None)
    num_removed = len(config.blocks) or (
        requested_blocks(config, int(model["num_blocks"])) if "num_blocks" in model else 0
    )
    if config.keep_fraction.keys() == {"parameters"}:  # how many go under other budgets is known when the scan is there
        num_removed = blocks_over(model, config.keep_fraction["parameters"])
    facts: dict[str, Any] = {name: model[name] for name in ("vocab_size", "hidden_size") if name in model}
    facts |= form_of(model)
    if "num_blocks" in model and num_removed:
        facts["num_blocks"] = int(model["num_blocks"]) - num_removed
    facts |= without_blocks(model, num_removed)
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(
        facts, peak_memory_bytes=NUM_COPIES[config.patch.kind] * num_bytes, disk_bytes=stored_bytes(facts) or num_bytes
    )


def _forecast_of_plan(config: PruneConfig, plan: PlanConfig, model: Facts, scan: Facts) -> Forecast:
    """Forecast a plan by its budget: what the solve takes is known when the scan is there."""
    check_plan(plan, scan)
    facts: dict[str, Any] = {name: model[name] for name in ("vocab_size", "hidden_size") if name in model}
    if {HIDDEN, ROTATED} & {*(plan.axes or several(scan, "axes"))}:
        facts.pop("hidden_size", None)  # the solve may take some of it
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    share = min((plan.budget[name] for name in ("parameters", "bytes") if name in plan.budget), default=0.0)
    if share and num_bytes:
        facts["num_parameters"] = int(share * float(model["num_parameters"]))
    num_tokens = 0 if config.patch.kind == "none" else config.patch.num_samples * config.patch.max_tokens
    return Forecast(
        facts,
        num_flops=0.5 * num_bytes * 5 * num_tokens * (4 if plan.trials else 1),
        peak_memory_bytes=(4 if num_tokens else 2) * num_bytes,
        disk_bytes=stored_bytes(facts) or num_bytes,
    )


def _is_light(config: PruneConfig) -> bool:
    return config.patch.kind == "none" and (config.elastic is None or not config.elastic.budget)


@stage("prune", version=7, forecast=_forecast, is_light=_is_light, follows="model")
def prune(config: PruneConfig, inputs: PruneInputs, workdir: Path) -> AnyModel:
    """Remove blocks of a model. The result loads and runs like any other of its family, which is tried on what was written.

    Raises ValueError when the blocks do not exist, when the family's config cannot say what is left, or when the proof fails.
    """
    if config.plan is not None:
        return _planned(config, config.plan, inputs, workdir)
    if config.elastic is not None:
        return prune_elastic(config.elastic, inputs.model, inputs.data, inputs.teacher, workdir / "content")
    removed = chosen_blocks(config, inputs.scan)
    if (run := RUNS.get(inputs.model.subject)) is not None:
        return run(inputs.model, removed, workdir / "content")
    steps = bar("pruning", 3, "steps")
    device = pick_device()
    num_copies = NUM_COPIES[config.patch.kind]
    placement = Placement.chosen(config.in_memory, inputs.model.path, num_copies, device, workdir / "changes")
    model = placement.load(inputs.model.path, "auto", keeps_blocks=config.patch.kind == "none")
    check_cut(model, removed)  # before any weight is computed
    steps.advance()
    expected = _cut(config.patch, inputs, placement, model, removed)
    note(f"removed blocks {', '.join(map(str, removed))}; {model.config.num_hidden_layers} are left")
    steps.advance()
    artifact = save_model(model, workdir / "content", tokenizer_from=inputs.model.path)
    steps.advance()
    del model
    prove_written(artifact.path, expected, "prune", device, pages=placement.pages("proof", keeps_blocks=True))
    return ModelArtifact.at(artifact.path, artifact.facts | {"removed_blocks": tuple(removed)})


def _planned(config: PruneConfig, plan_config: PlanConfig, inputs: PruneInputs, workdir: Path) -> ModelArtifact:
    """Carry a plan out: solve, cut, repair, measure again and prove."""
    assert inputs.scan is not None, "the forecast refuses a plan without a scan"
    device, patch, repair = pick_device(), config.patch, None
    if patch.kind == "refit":
        original = load_model(inputs.model.path, pick_dtype(patch.precision, device), device)
        rows = heldout_samples(inputs.model.path, _texts(inputs), NUM_MEASURED_ROWS, patch.max_tokens)
        repair = Repair(original, _samples(patch, inputs), rows, patch.ridge, patch.batch_size)
    problem, plan, shape = solved(plan_config, inputs.scan, inputs.model.path, repair)
    model = load_model(inputs.model.path, "auto", device)
    expected = carried_out(model, shape, repair)
    vocabulary = PlannedVocabulary.of(inputs.scan.path, shape.num_tokens, int(model.config.vocab_size))
    if not vocabulary.is_whole:
        expected = vocabulary.cut(model)
    measured = repair.measured_nats(model, vocabulary) if repair else None
    tokenizer_from = inputs.model.path if vocabulary.is_whole else None
    artifact = save_model(model, workdir / "content", tokenizer_from=tokenizer_from)
    facts: dict[str, Any] = dict(artifact.facts)
    if not vocabulary.is_whole:
        facts |= vocabulary.write_tokenizer(inputs.model.path, artifact.path)
    write_plan(artifact.path, plan_config, problem, plan, measured)
    del model, repair
    prove_written(artifact.path, expected, "prune", device)
    facts |= {"removed_blocks": shape.removed_blocks, "predicted_nats": plan.predicted_nats, "plan": str(plan)}
    facts |= {"measured_nats": measured["value"]} if measured else {}
    return ModelArtifact.at(artifact.path, facts)


def _cut(
    patch: NoPatch | LinearPatch | RefitPatch,
    inputs: PruneInputs,
    placement: Placement,
    model: PreTrainedModel,
    removed: Sequence[int],
) -> Tensor:
    """Remove the blocks in place, patched where asked, and return the logits of the result on the proof's prompts.

    What is left must first speak as the kept blocks do in the whole model, which is what a family's own surprises would break.
    """
    if patch.kind == "linear":
        dtype = pick_dtype(patch.precision, placement.device)
        original = model if model.dtype == dtype else placement.load(inputs.model.path, dtype, "original")
        _patch(patch, model, original, _samples(patch, inputs), removed)
    matches = Matches.of_removed(len(decoder_blocks(model)), removed)
    with handing_on(model, removed):
        expected = kept_logits(model, "prune")
    remove_blocks(model, removed)
    check_kept(model, expected, "prune")
    if patch.kind != "refit" or matches.first >= len(matches.was):
        return expected
    refit_result(
        model,
        placement.load(inputs.model.path, pick_dtype(patch.precision, placement.device), "original"),
        _samples(patch, inputs),
        matches,
        first=matches.first,
        ridge=patch.ridge,
        batch_size=patch.batch_size,
    )
    return kept_logits(model, "prune")


def _samples(patch: LinearPatch | RefitPatch, inputs: PruneInputs) -> list[list[int]]:
    return mixed_samples(inputs.model.path, _texts(inputs), patch.num_samples, patch.max_tokens)


def _texts(inputs: PruneInputs) -> tuple[DatasetArtifact, ...]:
    return cast("tuple[DatasetArtifact, ...]", inputs.data)  # the forecast refuses images beside a model of texts


def _patch(
    patch: LinearPatch,
    model: PreTrainedModel,
    original: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    removed: Sequence[int],
) -> None:
    """Fit the map on the rows that the model will be used for, as `original` computes them, and fold it into `model`."""
    fit = PatchFit(len(removed), [removed[0]], is_weighted=patch.weight == "norm")
    with only_blocks(original, range(removed[-1] + 1)):  # what comes after the window does not matter to its map
        run_through(original, samples, patch.batch_size, fit.update, "fitting the patch")
    fitted = fit.solve(removed[0], patch.ridge)
    fold_patch(model, fitted)
    metric("patch_residual_fraction", fitted.residual_fraction)
    note(f"patched block {removed[0] - 1}: {fitted.residual_fraction:.1%} of the window's squared change is left")
