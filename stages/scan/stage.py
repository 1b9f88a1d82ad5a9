"""Stage `scan`: how removable every window of decoder blocks is, under one metric or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from attar.compressors.prune.depth.metrics import GRADIENT_METRICS, REMOVAL_METRICS
from attar.compressors.prune.depth.select import protected_blocks
from attar.compressors.prune.hidden.scores import HIDDEN, ROTATED
from attar.compressors.prune.solve.vocabulary import FewerTokens
from attar.compressors.prune.vocabulary.tables import num_rows
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AnyData, AnyModel, DatasetArtifact, ScanArtifact
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, IMAGES, TAGGER, Subject, subject_of
from attar.stages.artifacts.dataset.samples import calibration_samples
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.model.placement import Placement
from attar.stages.contract import Forecast, stage
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import metric
from attar.stages.scan.candidates import CandidatesConfig, write_problem
from attar.stages.scan.config import ScanConfig, scan_facts
from attar.stages.scan.encoder import check_encoder_scan, scan_encoder
from attar.stages.scan.image_classifier import check_image_scan, scan_classifier
from attar.stages.scan.runs import ScanRun
from attar.stages.scan.tables import (
    COST_TABLE,
    GREEDY_TABLE,
    PART_TABLE,
    TABLE,
    write_costs,
    write_orders,
    write_parts,
    write_scores,
)
from attar.stages.scan.vocabulary import VOCABULARIES, measured_vocabularies, write_vocabularies

# What is refused of models of another subject than causal text, and how they are scanned.
CHECKS = {
    ENCODER: check_encoder_scan,
    CLASSIFIER: partial(check_encoder_scan, subject=CLASSIFIER),
    TAGGER: partial(check_encoder_scan, subject=TAGGER),
    IMAGES: check_image_scan,
}
RUNS: dict[Subject, Callable[..., ScanArtifact]] = {
    ENCODER: scan_encoder,
    CLASSIFIER: scan_encoder,
    TAGGER: scan_encoder,
    IMAGES: scan_classifier,
}


@dataclass(frozen=True, kw_only=True)
class ScanInputs:
    """The model to scan and the data that shows what it is used for."""

    model: AnyModel
    data: AnyData


def _forecast(config: ScanConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model = inputs["model"][0]
    refuse_other_data(model, inputs["data"])
    CHECKS.get(subject_of(model), lambda config: None)(config)
    facts = dict(scan_facts(config))
    num_tokens, num_runs = float(config.calibration.max_tokens), 0.0
    if "num_blocks" in model:
        num_blocks = facts["num_blocks"] = int(model["num_blocks"])
        free = num_blocks - len(protected_blocks(num_blocks, config.greedy.protect_first, config.greedy.protect_last))
        if config.sizes and max(config.sizes) >= num_blocks:
            raise ValueError(f"sizes is {config.sizes}, but the model has {num_blocks} blocks; accepted: below that")
        num_increases = len(REMOVAL_METRICS.keys() & set(config.metrics))
        # a candidate is run from its first block on: half a pass on average
        num_runs = num_increases * 0.5 * (config.greedy.num_steps * free + len(config.sizes) * num_blocks)
    num_runs += 3.0 * bool(GRADIENT_METRICS.keys() & set(config.metrics))
    num_passes = (
        config.calibration.num_samples * (1 + ("patch_residual" in config.metrics))
        + config.calibration.num_loss_samples * num_runs
    )
    if config.candidates.axes:
        num_passes += _candidate_passes(config.candidates, int(model.get("num_blocks", 0)))
    num_parameters = float(model.get("num_parameters", 0))
    needs_gradients = bool(GRADIENT_METRICS.keys() & set(config.metrics) or config.candidates.axes)
    return Forecast(
        facts,
        num_flops=2.0 * num_parameters * num_passes * num_tokens,
        peak_memory_bytes=(12.0 if needs_gradients else 4.0) * num_parameters,
    )


def _measure_candidates(config: ScanConfig, inputs: ScanInputs, run: ScanRun, content: Path) -> None:
    """Measure and write the candidates, with the tokens of each vocabulary where that is an axis."""
    vocabularies: list[FewerTokens] = []
    if "vocabulary" in config.candidates.axes:
        vocabularies = measured_vocabularies(
            inputs.model.path,
            cast(DatasetArtifact, inputs.data),
            num_rows(run.model),
            run.vocabulary_texts(),
            config.candidates.vocabulary_fractions,
            config.calibration.max_tokens,
        )
        write_vocabularies(content / VOCABULARIES, vocabularies)
    write_problem(content, *run.candidates(vocabularies))


def _candidate_passes(candidates: CandidatesConfig, num_blocks: int) -> float:
    """Return how many samples' forward passes the candidates take: half of one a block or seam, a whole one a width."""
    num_runs = 0.5 * num_blocks * len({"depth", "seams"} & {*candidates.axes})
    num_runs += len(candidates.channel_fractions) * ("channels" in candidates.axes)
    num_runs += len(candidates.hidden_fractions) * len({HIDDEN, ROTATED} & {*candidates.axes})
    # forward and backward, or forward alone where nothing but the stream is ranked
    passes = 2.5 if {"channels", "groups"} & {*candidates.axes} else float(bool({HIDDEN, ROTATED} & {*candidates.axes}))
    num_vocabularies = len(candidates.vocabulary_fractions) * ("vocabulary" in candidates.axes)
    num_read = candidates.num_vocabulary_samples * (num_vocabularies + bool(num_vocabularies))
    return candidates.num_samples * (1 + num_runs) + passes * candidates.num_scoring_samples + num_read


@stage("scan", version=7, forecast=_forecast)
def scan(config: ScanConfig, inputs: ScanInputs, workdir: Path) -> ScanArtifact:
    """Score every window of blocks under each of the metrics, as tables. Of encoders and classifiers those that need no next token.

    Raises ValueError for calibration text that is empty or too short.
    """
    if (run := RUNS.get(inputs.model.subject)) is not None:
        return run(config, inputs.model, inputs.data, workdir / "content")
    device = pick_device()
    in_memory = "model" if config.needs_whole_model else config.in_memory
    placement = Placement.chosen(in_memory, inputs.model.path, 1, device, workdir / "changes")
    model = placement.load(inputs.model.path, pick_dtype(config.calibration.precision, device))
    samples = calibration_samples(
        inputs.model.path,
        cast(DatasetArtifact, inputs.data),
        config.calibration.num_samples,
        config.calibration.max_tokens,
        prepend_bos=config.calibration.prepend_bos,
    )
    run = ScanRun(config, model, samples)
    scores, orders = run.window_scores(), run.greedy_orders()
    content = workdir / "content"
    write_scores(content / TABLE, run.num_blocks, scores)
    write_costs(content / COST_TABLE, run.costs())
    if run.parts.num_tokens:
        write_parts(content / PART_TABLE, run.parts.scores())
    if orders:
        write_orders(content / GREEDY_TABLE, orders)
    if config.candidates.axes:
        _measure_candidates(config, inputs, run, content)
    for name, table in scores.items():
        ones = [score for (_, size), score in table.items() if size == 1]
        if ones:
            metric(f"lowest_{name}_of_one_block", min(ones))
    return ScanArtifact.at(content, scan_facts(config), num_blocks=run.num_blocks, num_tokens=run.num_tokens)
