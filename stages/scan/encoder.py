"""Scan a model that reads whole texts. The metrics that compare states and weights, over the texts' tokens as it reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from attar.compressors.catalogue import build
from attar.compressors.encode.encoder import length_batches
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.slots import pad_right
from attar.compressors.prune.depth.block_cost import counted_costs
from attar.compressors.prune.depth.metrics import CONTROL_METRICS, COSINE_METRICS, WEIGHT_METRICS
from attar.compressors.prune.depth.scan import Scores, WindowScan, residual_stream, window_table
from attar.registry.artifacts.handles import AnyModel, DatasetArtifact, ScanArtifact
from attar.registry.artifacts.subjects import ENCODER, Subject
from attar.stages.artifacts.dataset.rows import read_rows, split_rows
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.mixed_subjects import refuse_causal_fields
from attar.stages.artifacts.text_models import TEXT_MODELS
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric
from attar.stages.scan.config import ScanConfig, scan_facts
from attar.stages.scan.tables import COST_TABLE, TABLE, write_costs, write_scores

# Metrics that need no next token.
METRICS = (*COSINE_METRICS, *CONTROL_METRICS, *WEIGHT_METRICS)
CAUSAL_FIELDS = ("tokens", "prepend_bos", "skip_first", "num_loss_samples")


def check_encoder_scan(config: ScanConfig, subject: Subject = ENCODER) -> None:
    """Raise ValueError for what such a model does not have: next tokens, a cache, candidates of a solve."""
    if causal := [name for name in config.metrics if name not in METRICS]:
        raise ValueError(
            f"metrics has {causal[0]!r}, which needs a causal language model; accepted for {subject.words}: {', '.join(METRICS)}"
        )
    refuse_causal_scan(config, subject)
    accepted = "num_samples, max_tokens, batch_size, precision"
    refuse_causal_fields(subject, sorted(config.calibration.model_fields_set), CAUSAL_FIELDS, accepted)


def refuse_causal_scan(config: ScanConfig, subject: Subject) -> None:
    """Raise ValueError for what is measured of models alone that write token by token."""
    if config.candidates.axes or config.measure_latency or config.in_memory == "block":
        given = "candidates" if config.candidates.axes else "measure_latency" if config.measure_latency else "in_memory"
        raise ValueError(
            f"{given} is for causal language models; accepted for {subject.words}: metrics and calibration alone"
        )


def scan_encoder(config: ScanConfig, model: AnyModel, data: DatasetArtifact, content: Path) -> ScanArtifact:
    """Score every window of the blocks, as tables. Raises ValueError for data without training texts."""
    device = pick_device()
    models = TEXT_MODELS[model.subject]
    encoder = models.load(model.path, pick_dtype(config.calibration.precision, device), device)
    texts = models.texts(model.facts, split_rows(read_rows(data.path / "rows.jsonl"), "train"))[
        : config.calibration.num_samples
    ]
    if not texts:
        raise ValueError("the data set has no training rows to calibrate on")
    ids = [some[: config.calibration.max_tokens] for some in TextReader.of(model)(texts)]
    num_blocks = len(decoder_blocks(encoder.model))
    scores = _cosine(config, encoder, ids) | _others(config, encoder, num_blocks)
    scores = {name: scores[name] for name in config.metrics}
    write_scores(content / TABLE, num_blocks, scores)
    write_costs(content / COST_TABLE, counted_costs(encoder.model, config.calibration.max_tokens))
    for name, table in scores.items():
        metric(f"lowest_{name}_of_one_block", min(score for (_, size), score in table.items() if size == 1))
    return ScanArtifact.at(content, scan_facts(config), num_blocks=num_blocks, num_tokens=sum(map(len, ids)))


@torch.inference_mode()
def _cosine(config: ScanConfig, encoder: Any, ids: list[list[int]]) -> dict[str, Scores]:
    metrics = {name: build(COSINE_METRICS, name) for name in config.metrics if name in COSINE_METRICS}
    totals = WindowScan(metrics)
    counter = bar("scanning", sum(map(len, ids)), "tokens")
    for batch in length_batches(ids, config.calibration.batch_size * config.calibration.max_tokens) if metrics else ():
        input_ids, mask = pad_right([ids[index] for index in batch], encoder.device)
        with residual_stream(encoder.model) as states:
            encoder(input_ids, mask)
        keep = mask.bool().flatten()
        totals.add([state.flatten(end_dim=1)[keep] for state in states])
        counter.advance(int(mask.sum()))
    return {name: totals.scores(name) for name in metrics}


def _others(config: ScanConfig, encoder: Any, num_blocks: int) -> dict[str, Scores]:
    tables: dict[str, Scores] = {}
    for name in config.metrics:
        if name in CONTROL_METRICS:
            drawn = build(CONTROL_METRICS, name)(num_blocks, torch.Generator().manual_seed(config.seed))
            tables[name] = window_table(drawn)
        elif name in WEIGHT_METRICS:
            of_blocks = [build(WEIGHT_METRICS, name)(block.parameters()) for block in decoder_blocks(encoder.model)]
            windows = [(first, size) for first in range(num_blocks) for size in range(1, num_blocks - first + 1)]
            tables[name] = {(first, size): sum(of_blocks[first : first + size]) for first, size in windows}
    return tables
