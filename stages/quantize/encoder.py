"""Quantize an encoder's graph, or write that of any model which reads whole texts. Accepted only within limits on held-out texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from attar.compressors.encode.session import GraphEncoder
from attar.compressors.export.runtime import CPU
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import EncoderGraphArtifact
from attar.registry.artifacts.subjects import ENCODER, Subject, form_of
from attar.stages.artifacts.dataset.rows import read_rows, split_rows
from attar.stages.artifacts.encoder.folder import copy_form
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.model.size_forecast import exported
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.artifacts.onnx_folder import DATA, disk_bytes, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.text_models import TEXT_MODELS
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.graph import TABLE, QuantizedGraph
from attar.stages.quantize.limits import VectorLimits
from attar.stages.runtime.progress import bar, metric, note

RESULT = "quality.json"
# Methods that choose integers by the weights alone: the others run the graph as a causal model.
METHODS = ("nearest",)


def check_encoder_quantize(config: QuantizeConfig, subject: Subject = ENCODER) -> None:
    """Raise ValueError for what is chosen by running a causal graph over text. These integers follow from the weights alone."""
    if config.method not in METHODS:
        raise ValueError(
            f"method is {config.method!r}, which is calibrated on a causal graph; accepted for {subject.words}: {', '.join(METHODS)}"
        )
    refuse_causal_settings(config, subject, "none")


def refuse_causal_settings(config: QuantizeConfig, subject: Subject, accepted: str) -> None:
    """Raise ValueError for what is calibrated by running a graph over text. `accepted`: instead of matrices that stay."""
    if config.smooth and "smooth" in config.model_fields_set:
        raise ValueError(
            f"smooth is {config.smooth:g}, which is calibrated on a causal graph; accepted for {subject.words}: 0"
        )
    if config.max_kept or config.twofold:
        raise ValueError(
            f"{'max_kept' if config.max_kept else 'twofold'} is for causal graphs; accepted for {subject.words}: {accepted}"
        )


def quantize_encoder(config: QuantizeConfig, inputs: QuantizeInputs, content: Path, label: str) -> EncoderGraphArtifact:
    """Write the quantized graph and compare its vectors with the float graph's. Raises ValueError when a limit does not hold."""
    quantized, vectors = rows_of_both(config, inputs, content)
    copy_form(inputs.model.path, content)
    distances = 1.0 - nn.functional.cosine_similarity(*vectors, dim=-1)
    quality = {
        "cosine_distance": float(distances.mean()),
        "largest_cosine_distance": float(distances.max()),
        "size_fraction": disk_bytes(content) / disk_bytes(inputs.model.path),
        "num_texts": float(len(distances)),
    }
    for name, value in quality.items():
        metric(name, value)
    note(
        f"vectors of {len(distances)} texts are {quality['cosine_distance']:.2g} from the float graph's (1 - cosine, mean), "
        f"in {quality['size_fraction']:.3f} of its bytes"
    )
    _refuse_loss(config, quality)
    facts = graph_facts(inputs, quantized, content, quality, label)
    carried = {name: quality[name] for name in ("cosine_distance", "size_fraction")}
    return EncoderGraphArtifact.at(content, {**facts, **carried})


def rows_of_both(
    config: QuantizeConfig, inputs: QuantizeInputs, content: Path
) -> tuple[QuantizedGraph, list[torch.Tensor]]:
    """Write the quantized graph with what lies beside it. Return what the float graph and it make of held-out texts, a row each or a row a token.

    Raises ValueError for data without texts.
    """
    source, models = inputs.model.path, TEXT_MODELS[inputs.model.subject]
    rows = read_rows(inputs.data.path / "rows.jsonl")
    texts = models.texts(inputs.model.facts, split_rows(rows, "heldout") or rows)[: config.measured.max_rows or None]
    if not texts:
        raise ValueError("input data: no row has a text to measure the loss on")
    ids = TextReader.of(inputs.model)(texts)
    quantized = QuantizedGraph(config.with_changes(smooth=0.0), source, [])
    write_graph(quantized.with_floats([]), content)
    copy_tokenizer(source, content)
    (content / "config.json").write_text((source / "config.json").read_text())
    counter = bar("measuring the loss", 2 * len(ids), "texts")
    sessions = [GraphEncoder(open_session(folder), CPU, models.output) for folder in (source, content)]
    return quantized, [models.rows(session, ids, on_batch=counter.advance) for session in sessions]


def graph_facts(
    inputs: QuantizeInputs, quantized: QuantizedGraph, content: Path, quality: Mapping[str, float], label: str
) -> dict[str, Any]:
    """Write what was measured beside an accepted graph, and return its facts."""
    quantized.write_table(content / TABLE)
    (content / RESULT).write_text(json.dumps(quality, indent=1))
    facts: Facts = inputs.model.facts
    held = {"weight_bytes": float((content / DATA).stat().st_size)}
    return {**exported(facts, label), **form_of(facts), **held}


def _refuse_loss(config: QuantizeConfig, quality: dict[str, float]) -> None:
    allowed = cast(VectorLimits, config.limits)
    limits = {"cosine_distance": allowed.max_cosine_distance, "size_fraction": allowed.max_size_fraction}
    broken = [f"{name} {quality[name]:.4g} > {limit:g}" for name, limit in limits.items() if not quality[name] <= limit]
    if broken:
        raise ValueError(f"the quantized encoder loses too much: {'; '.join(broken)}")
