"""Export a classifier or a tagger as one ONNX graph, subclasses summed inside. Accepted only when it gives the same classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from attar.compressors.encode.session import LOGITS, GraphEncoder
from attar.compressors.export.runtime import CPU
from attar.registry.artifacts.subjects import form_of
from attar.stages.artifacts.classifier.class_form import SUBCLASSES, ClassForm, named_outputs, read_class_form
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.model.size_forecast import exported
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.artifacts.onnx_folder import JS_CONFIG, write_graph
from attar.stages.artifacts.text_models import TEXT_MODELS
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.export.onnx.rounded import ALLOWANCE, in_precision, proof_session, rounded_facts
from attar.stages.runtime.progress import bar, metric, note

# Largest difference of a log-probability, in nats: other sums of the same float32 numbers are a hundredth of it apart.
MAX_DIFFERENCE = 1e-3


def export_classifier_graph(config: ExportConfig, inputs: ExportInputs, content: Path) -> Any:
    """Write the graph and what reads it, and hold its log-probabilities of texts to torch's. Raises ValueError where they differ."""
    from attar.compressors.encode.graph import export_classifier  # its libraries are in an extra

    folder, facts, form = inputs.model.path, inputs.model.facts, cast(OnnxFormat, config.format)
    models, classes = TEXT_MODELS[inputs.model.subject], read_class_form(folder)
    texts = models.texts(facts, read_rows(inputs.data.path / "rows.jsonl"))[: config.num_prompts]
    if not texts:
        raise ValueError("input data: no row has a text to compare the graph on")
    ids = TextReader.of(inputs.model)(texts)
    classifier = load_classifier(folder, torch.float32)
    steps = bar("tracing the graph", 1, "steps")
    graph = export_classifier(classifier, form.opset, reads_words=classes.reads_words)
    steps.advance()
    write_graph(in_precision(form, graph), content)
    write_graph_companions(folder, content, classes)
    runners = (classifier, GraphEncoder(proof_session(content, form), CPU, LOGITS))
    expected, actual = (models.rows(runner, ids).log_softmax(dim=-1) for runner in runners)
    difference = float((expected - actual).abs().max())
    metric("max_logprob_difference", difference)
    note(f"the graph's log-probabilities of {len(texts)} texts are torch's to {difference:.1e} nats")
    if not difference <= (limit := MAX_DIFFERENCE * ALLOWANCE[form.precision]):
        raise ValueError(
            f"the exported graph is not the {classes.head.kind}: a log-probability differs by {difference:.2g} nats; accepted: {limit:g}"
        )
    made = {**exported(facts), **form_of(facts), **rounded_facts(form), "num_subclasses": 1}
    made["max_logprob_difference"] = difference
    return classes.head.graph.at(content, made)


def write_graph_companions(source: Path, content: Path, form: ClassForm) -> None:
    """Copy config and tokenizer of a classifier: what names the graph's logits, and what transformers.js reads."""
    copy_tokenizer(source, content)
    config = json.loads((source / "config.json").read_text())
    config.pop(SUBCLASSES, None)
    whole = {**config, **named_outputs(replace(form, num_subclasses=1)), "transformers.js_config": JS_CONFIG}
    (content / "config.json").write_text(json.dumps(whole, indent=2) + "\n")
