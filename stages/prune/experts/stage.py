"""Stage `prune_experts`: take experts out of every mixture, or merge them, leaving a plain model with fewer."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.compressors.catalogue import build
from attar.compressors.measure.same_logits import difference
from attar.compressors.models.experts import MoeLayer, moe_layers
from attar.compressors.prune.experts.cut import check_config, cut_experts, fold_merged, masked_routers
from attar.compressors.prune.experts.methods import (
    EXPERT_METHODS,
    Assignment,
    ExpertMethod,
    assign,
    refuse_unseen,
    scores_of,
)
from attar.compressors.prune.experts.scan import ExpertScan, Routed
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.dataset.samples import mixed_samples, run_through
from attar.stages.artifacts.model.expert_facts import with_experts
from attar.stages.artifacts.model.folder import load_model, save_model
from attar.stages.artifacts.model.proof import HALF, check_kept, kept_logits, prove_written
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.contract import Forecast, stage
from attar.stages.prune.experts.config import PruneExpertsConfig, PruneExpertsInputs, check_data, forecast_kept
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TABLE = "expert_scores.csv"


def _forecast(config: PruneExpertsConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    check_data(config, has_data=bool(inputs.get("data")))
    model = inputs["model"][0]
    num_kept = forecast_kept(config, model)
    facts = with_experts(model, num_kept) if num_kept else {}
    num_parameters = float(model.get("num_parameters", 0))
    num_active = num_parameters - float(model.get("num_idle_parameters", 0))
    num_at_work = {"weights": 0.0, "routed": num_active, "dense": num_parameters}[EXPERT_METHODS[config.method].source]
    num_flops = 2.0 * num_at_work * config.calibration.num_samples * config.calibration.max_tokens
    disk_bytes = stored_bytes(facts) or 4.0 * num_parameters
    return Forecast(facts, num_flops, peak_memory_bytes=8.0 * num_parameters, disk_bytes=disk_bytes)


@stage("prune_experts", version=1, forecast=_forecast)
def prune_experts(config: PruneExpertsConfig, inputs: PruneExpertsInputs, workdir: Path) -> ModelArtifact:
    """Remove or merge experts, as many in each block. The result loads and decodes like any other model of its family, which is tried.

    Raises ValueError for a model without experts, when its router could not choose among those that stay, and when the proof fails.
    """
    device = pick_device()
    choice = _choose(config, inputs, device)
    steps = bar("pruning experts", 3, "steps")
    model = load_model(inputs.model.path, "auto", device)  # the pass may have run in another dtype
    expected = _cut(model, choice.assignments)
    steps.advance()
    note(f"{len(choice.assignments[0].kept_experts)} of {len(choice.scores[0])} experts are left in each block")
    artifact = save_model(model, workdir / "content", tokenizer_from=inputs.model.path)
    _record(artifact.path, choice)
    steps.advance()
    del model
    prove_written(artifact.path, expected, "prune_experts", device)
    steps.advance()
    return ModelArtifact.at(artifact.path, artifact.facts)


@dataclass(frozen=True)
class Choice:
    """What the pass showed, a mixture each, and what was chosen by it."""

    blocks: list[int]
    totals: list[Routed]
    scores: list[Tensor]
    assignments: list[Assignment]


def _choose(config: PruneExpertsConfig, inputs: PruneExpertsInputs, device: torch.device) -> Choice:
    """Run the calibration rows through the model, once, and choose. The weights are only read."""
    check_data(config, has_data=bool(inputs.data))
    model = load_model(inputs.model.path, pick_dtype(config.calibration.precision, device), device)
    layers = moe_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__}: it has no experts; prune takes its blocks, narrow its channels")
    num_kept = config.num_kept(layers[0].routing)
    check_config(model, layers, num_kept)
    method: ExpertMethod = build(EXPERT_METHODS, config.method, config.params)
    scan = ExpertScan(layers, is_dense=method.source == "dense")
    if config.reads_data:
        calibration = config.calibration
        samples = mixed_samples(inputs.model.path, inputs.data, calibration.num_samples, calibration.max_tokens)
        run_through(model, samples, calibration.batch_size, scan.update, "scoring experts")
    scores = [scores_of(method, layer, routed) for layer, routed in zip(layers, scan.totals, strict=True)]
    refuse_unseen(scores, layers)
    assignments = [assign(method, layer, routed, num_kept) for layer, routed in zip(layers, scan.totals, strict=True)]
    _report(layers, scan.totals, scores, assignments)
    return Choice([layer.block_index for layer in layers], scan.totals, scores, assignments)


def _cut(model: PreTrainedModel, assignments: Sequence[Assignment]) -> Tensor:
    """Cut in place and return the logits; they must be the whole model's when its routers choose none of the others."""
    layers = moe_layers(model)
    fold_merged(layers, assignments)
    with _in_float32(
        model
    ):  # fewer rows are added in another order, and a near tie would send a token to another expert
        with masked_routers(layers, assignments):
            whole = kept_logits(model, "prune_experts")
        cut_experts(model, layers, assignments)
        metric("proof_masked_router_error", difference(whole, kept_logits(model, "prune_experts")))
        check_kept(model, whole, "prune_experts")
    return kept_logits(model, "prune_experts")


@contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Let a model in half precision compute in float32, which loses nothing. Behind it each tensor has its own dtype again."""
    dtypes = {name: tensor.dtype for name, tensor in _tensors(model)}
    if model.dtype in HALF:
        model.float()
    yield
    for name, tensor in _tensors(model):
        tensor.data = tensor.data.to(dtypes[name])


def _tensors(model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _report(
    layers: Sequence[MoeLayer], totals: Sequence[Routed], scores: Sequence[Tensor], assignments: Sequence[Assignment]
) -> None:
    for layer, routed, own, assignment in zip(layers, totals, scores, assignments, strict=True):
        for name, values in (("score", own), ("token", routed.counts)):
            share = float(values[assignment.kept_experts].sum() / values.sum().clamp(min=1e-30))
            if values.sum() > 0:
                metric(f"kept_expert_{name}_fraction", share, step=layer.block_index)


def _record(content: Path, choice: Choice) -> None:
    """Write what was seen of every expert and which stayed: the weights no longer tell. Merged ones name the expert whose row they share."""
    (content / RECORDS_FOLDER).mkdir()
    columns = ("block", "expert", "score", "tokens", "router_weight", "activation_norm", "reap", "stays_as")
    with (content / RECORDS_FOLDER / TABLE).open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(columns)
        for block, routed, scores, assignment in zip(
            choice.blocks, choice.totals, choice.scores, choice.assignments, strict=True
        ):
            stays_as = _stays_as(assignment, len(scores))
            reap = routed.weighted_norms / routed.counts.clamp(min=1)
            seen = (scores, routed.counts, routed.weights, routed.norms, reap)
            for expert, new in enumerate(stays_as):
                table.writerow([block, expert, *(f"{float(values[expert]):.6g}" for values in seen), new])


def _stays_as(assignment: Assignment, num_experts: int) -> list[int | str]:
    """Return the index that each expert has in the result, empty where it went."""
    if assignment.shares is not None:
        return [int(column.argmax()) if column.any() else "" for column in assignment.shares.T]
    new_index = {int(old): new for new, old in enumerate(assignment.kept_experts)}
    return [new_index.get(expert, "") for expert in range(num_experts)]
