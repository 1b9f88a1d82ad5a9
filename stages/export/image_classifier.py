"""Export an image classifier as one ONNX graph. Accepted only when it gives the same distributions on images."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import cast

import torch

from attar.compressors.export.runtime import CPU
from attar.compressors.images.classifier import logits_of
from attar.compressors.images.session import GraphClassifier
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact, ImageGraphArtifact
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.images.dataset import ImageBytes, part_rows, read_image_rows
from attar.stages.artifacts.images.fit import graph_facts
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.pixels import PROCESSOR, PixelReader, pixel_batches
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.export.limits import graph_form
from attar.stages.export.onnx.rounded import ALLOWANCE, in_precision, proof_session, rounded_facts
from attar.stages.runtime.progress import bar, metric, note

# Largest difference of a log-probability, in nats: other sums of the same float32 numbers are a tenth of it apart.
MAX_DIFFERENCE = 1e-3
AT_ONCE = 32


def image_graph_forecast(config: ExportConfig, model: Facts, other_inputs: Collection[str]) -> Forecast:
    """Return what the graph will be. Raises ValueError for what no image classifier has: other formats, guidance, text that it writes."""
    facts = graph_facts(model) | rounded_facts(graph_form(config, IMAGES, other_inputs))
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(facts, peak_memory_bytes=3.0 * num_bytes, disk_bytes=stored_bytes(facts))


def export_image_graph(config: ExportConfig, inputs: ExportInputs, content: Path) -> ImageGraphArtifact:
    """Write the graph with what says how images are read, and hold its distributions to torch's. Raises ValueError where they differ."""
    from attar.compressors.images.graph import export_classifier  # its libraries are in an extra

    model, data = cast(ImageClassifierArtifact, inputs.model), cast(ImageDatasetArtifact, inputs.data)
    classifier = load_classifier(model.path, torch.float32)
    steps = bar("tracing the graph", 1, "steps")
    height, width = model.facts.image_size
    form = cast(OnnxFormat, config.format)
    graph = export_classifier(classifier, (height, width), model.facts.num_channels, form.opset)
    steps.advance()
    write_graph(in_precision(form, graph), content)
    for name in (PROCESSOR, "config.json"):
        shutil.copy2(model.path / name, content / name)
    reader, stored = PixelReader(model.path, model.facts.num_channels), ImageBytes(data)
    rows = part_rows(read_image_rows(data.path), "heldout")[: config.num_prompts]
    images = [reader.stored(data, row, stored) for row in rows]
    expected, actual = (
        logits_of(runner, pixel_batches(images, AT_ONCE)).log_softmax(dim=-1)
        for runner in (classifier, GraphClassifier(proof_session(content, form), CPU))
    )
    difference = float((expected - actual).abs().max())
    metric("max_logprob_difference", difference)
    note(f"the graph's log-probabilities of {len(images)} images are torch's to {difference:.1e}")
    if not difference <= (limit := MAX_DIFFERENCE * ALLOWANCE[form.precision]):
        raise ValueError(
            f"the exported graph is not the classifier: a log-probability differs by {difference:.2g}; accepted: {limit:g}"
        )
    made = {**graph_facts(model.facts), **rounded_facts(form), "max_logprob_difference": difference}
    return ImageGraphArtifact.at(content, made)
