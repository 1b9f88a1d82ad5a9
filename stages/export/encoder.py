"""Export an encoder as one ONNX graph that pools and normalizes itself. Accepted only when it gives the same vectors."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import cast

import torch

from attar.compressors.encode.encoder import encoded
from attar.compressors.encode.session import GraphEncoder
from attar.compressors.export.runtime import CPU
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import EncoderGraphArtifact
from attar.registry.artifacts.subjects import form_of, subject_of
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.encoder.folder import copy_form, load_encoder
from attar.stages.artifacts.encoder.texts import TextReader, texts_of
from attar.stages.artifacts.model.size_forecast import exported, stored_bytes
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.artifacts.onnx_folder import JS_CONFIG, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.runtime.progress import bar, metric, note

# Largest difference of a number of a vector: other sums of the same float32 numbers are a hundredth of it apart.
MAX_DIFFERENCE = 1e-4
CAUSAL_FIELDS = ("num_new_tokens", "min_token_agreement")


def encoder_graph_forecast(config: ExportConfig, model: Facts, other_inputs: Collection[str]) -> Forecast:
    """Return what the graph of a model that reads whole texts will be.

    Raises ValueError for what it has not: other formats, guidance, text that it writes.
    """
    what = subject_of(model).words
    if config.format.kind != "onnx":
        raise ValueError(f"format.kind is {config.format.kind!r}, but the model is {what}; accepted: 'onnx'")
    if config.format.operators != "fused":
        raise ValueError(f"format.operators is {config.format.operators!r}, but the model is {what}; accepted: 'fused'")
    if other_inputs:
        raise ValueError(
            f"input {next(iter(other_inputs))} is for causal language models, and the model is {what}; accepted: none"
        )
    if given := [name for name in CAUSAL_FIELDS if name in config.model_fields_set]:
        raise ValueError(
            f"{given[0]} is given, but the model is {what}, which writes nothing; accepted: format.opset, num_prompts"
        )
    facts = {**exported(model), **form_of(model)}
    facts |= {"num_subclasses": 1} if "num_subclasses" in facts else {}  # the graph sums them
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(facts, peak_memory_bytes=3.0 * num_bytes, disk_bytes=stored_bytes(facts))


def export_encoder_graph(config: ExportConfig, inputs: ExportInputs, content: Path) -> EncoderGraphArtifact:
    """Write the graph and what reads it, and hold its vectors of texts to torch's. Raises ValueError where they differ."""
    from attar.compressors.encode.graph import export_encoder  # its libraries are in an extra

    folder, facts, form = inputs.model.path, inputs.model.facts, cast(OnnxFormat, config.format)
    texts = texts_of(read_rows(inputs.data.path / "rows.jsonl"))[: config.num_prompts]
    if not texts:
        raise ValueError("input data: no row has a text to compare the graph on")
    ids = TextReader.of(inputs.model)(texts)
    encoder = load_encoder(folder, torch.float32)
    steps = bar("tracing the graph", 1, "steps")
    graph = export_encoder(encoder, form.opset)
    steps.advance()
    write_graph(graph, content)
    write_companions(folder, content)
    expected = encoded(encoder, ids)
    actual = encoded(GraphEncoder(open_session(content), CPU), ids)
    difference = float((expected - actual).abs().max())
    metric("max_vector_difference", difference)
    note(f"the graph's vectors of {len(texts)} texts are torch's to {difference:.1e}")
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"the exported graph is not the encoder: a number of a vector differs by {difference:.2g}; accepted: {MAX_DIFFERENCE:g}"
        )
    made = {**exported(facts), **form_of(facts), "max_vector_difference": difference}
    return EncoderGraphArtifact.at(content, made)


def write_companions(source: Path, content: Path) -> None:
    """Copy config, tokenizer and form of an encoder or graph, and say what transformers.js reads."""
    copy_tokenizer(source, content)
    copy_form(source, content)
    config = json.loads((source / "config.json").read_text())
    (content / "config.json").write_text(json.dumps({**config, "transformers.js_config": JS_CONFIG}, indent=2) + "\n")
