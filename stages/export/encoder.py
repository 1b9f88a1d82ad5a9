"""Export an encoder as one ONNX graph that pools and normalizes itself. Accepted only when it gives the same vectors."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attar.compressors.encode.early_exits import ExitVectors
from attar.compressors.encode.encoder import SentenceEncoder, encoded
from attar.compressors.encode.session import MIN_AGREEMENT, GraphEncoder
from attar.compressors.export.runtime import CPU
from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import EncoderGraphArtifact
from attar.registry.artifacts.subjects import form_of, subject_of
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.encoder.exits import check_exits
from attar.stages.artifacts.encoder.folder import copy_form, load_encoder, sizes_of
from attar.stages.artifacts.encoder.texts import TextReader, texts_of
from attar.stages.artifacts.model.size_forecast import exported, stored_bytes, without_blocks
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.artifacts.onnx_folder import JS_CONFIG, write_graph
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import EarlyExits, OnnxFormat
from attar.stages.export.limits import graph_form
from attar.stages.export.onnx.rounded import ALLOWANCE, in_precision, proof_session, rounded_facts
from attar.stages.runtime.progress import bar, metric, note

# Largest difference of a number of a vector: other sums of the same float32 numbers are a hundredth of it apart.
MAX_DIFFERENCE = 1e-4


def encoder_graph_forecast(config: ExportConfig, model: Facts, other_inputs: Collection[str]) -> Forecast:
    """Return what the graph of a model that reads whole texts will be.

    Raises ValueError for what it has not: other formats, guidance, text that it writes.
    """
    form = graph_form(config, subject_of(model), other_inputs)
    num_blocks = int(model.get("num_blocks", 0))
    num_removed = num_blocks - form.exit if form.exit and num_blocks else 0
    facts = {**exported({**model, **without_blocks(model, num_removed)}), **form_of(model), **rounded_facts(form)}
    facts |= {"early_exits": form.early.exits} if form.early is not None else {}
    facts |= {"num_subclasses": 1} if "num_subclasses" in facts else {}  # the graph sums them
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(facts, peak_memory_bytes=3.0 * num_bytes, disk_bytes=stored_bytes(facts))


def refuse_exits(form: OnnxFormat, model: Facts) -> None:
    """Raise ValueError for an exit that the model, where its facts are known, has not."""
    if form.early is not None:
        check_exits(form.early.exits, model, "format.early.exits")
    elif form.exit:
        check_exits((form.exit,), model, "format.exit", ends_there=False)


def export_encoder_graph(config: ExportConfig, inputs: ExportInputs, content: Path) -> EncoderGraphArtifact:
    """Write the graph and what reads it, and hold its vectors of texts to torch's. Raises ValueError where they differ."""
    from attar.compressors.encode.early_graph import export_early  # its libraries are in an extra
    from attar.compressors.encode.graph import export_encoder  # and so are these

    folder, facts, form = inputs.model.path, inputs.model.facts, cast(OnnxFormat, config.format)
    refuse_exits(form, facts)  # a plan may not have known its blocks
    texts = texts_of(read_rows(inputs.data.path / "rows.jsonl"))[: config.num_prompts]
    if not texts:
        raise ValueError("input data: no row has a text to compare the graph on")
    ids = TextReader.of(inputs.model)(texts)
    encoder = load_encoder(folder, torch.float32)
    if form.exit:
        remove_blocks(encoder.model, range(form.exit, len(decoder_blocks(encoder.model))))
    steps = bar("tracing the graph", 1, "steps")
    graph = (
        export_encoder(encoder, form.opset)
        if form.early is None
        else export_early(encoder, form.early.exits, form.early.min_agreement, form.opset)
    )
    steps.advance()
    write_graph(in_precision(form, graph), content)
    write_companions(folder, content, encoder.model.config.to_dict() if form.exit else {})
    difference, limit = (
        _difference(encoder, proof_session(content, form), ids, form.early),
        MAX_DIFFERENCE * ALLOWANCE[form.precision],
    )
    metric("max_vector_difference", difference)
    note(f"the graph's vectors of {len(texts)} texts are torch's to {difference:.1e}")
    if not difference <= limit:
        raise ValueError(
            f"the exported graph is not the encoder: a number of a vector differs by {difference:.2g}; accepted: {limit:g}"
        )
    made = {**exported({**facts, **sizes_of(encoder.model)}), **form_of(facts), **rounded_facts(form)}
    made["max_vector_difference"] = difference
    made |= {"early_exits": form.early.exits} if form.early is not None else {}
    return EncoderGraphArtifact.at(content, made)


def _difference(
    encoder: SentenceEncoder, session: Any, ids: Sequence[Sequence[int]], early: EarlyExits | None
) -> float:
    """Return the largest difference of a number of a vector; of a graph with early exits where all texts end at the first and where none does."""
    if early is None:
        return _apart(encoded(encoder, ids), encoded(GraphEncoder(session, CPU), ids))
    depths = {-2.0: early.exits[1], 2.0: early.exits[-1]}  # beyond what a cosine can be
    graphs = {depth: GraphEncoder(session, CPU, settings={MIN_AGREEMENT: alike}) for alike, depth in depths.items()}
    return max(_apart(encoded(ExitVectors(encoder, [depth]), ids), encoded(graphs[depth], ids)) for depth in graphs)


def _apart(expected: Tensor, actual: Tensor) -> float:
    return float((expected - actual).abs().max())


def write_companions(source: Path, content: Path, cut: Mapping[str, Any]) -> None:
    """Copy config, tokenizer and form of an encoder or graph, and say what transformers.js reads. `cut`: what the config of fewer blocks says."""
    copy_tokenizer(source, content)
    copy_form(source, content)
    config = json.loads((source / "config.json").read_text())
    config |= {name: value for name, value in cut.items() if name in config}
    (content / "config.json").write_text(json.dumps({**config, "transformers.js_config": JS_CONFIG}, indent=2) + "\n")
