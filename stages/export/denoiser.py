"""Export a denoiser's whole sampler as one ONNX graph. Accepted only when it makes the same images."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.sampler import sampled
from attar.compressors.diffusion.session import GraphSampler
from attar.compressors.export.runtime import CPU
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import SamplerGraphArtifact
from attar.registry.artifacts.subjects import DENOISER, form_of
from attar.stages.artifacts.denoiser.folder import SCHEDULER, companion_bytes, load_denoiser
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.export.limits import refuse_causal_export
from attar.stages.runtime.progress import bar, metric, note

# Largest difference of a pixel in [-1, 1] after all steps: a fiftieth of a grey level of 256.
MAX_DIFFERENCE = 1e-3
COPIED = ("num_image_channels", "num_timesteps", "num_parameters", "num_products")


def sampler_graph_forecast(config: ExportConfig, model: Facts, other_inputs: Sequence[str]) -> Forecast:
    """Return what the graph will be. Raises ValueError for what no denoiser has: other formats, text, steps that do not meet."""
    accepted = "format.opset, format.num_steps, num_prompts"
    refuse_causal_export(config, DENOISER, other_inputs, accepted=accepted, more=["max_logit_difference"])
    if model.get("num_timesteps", 0) % config.format.num_steps:
        raise ValueError(
            f"format.num_steps is {config.format.num_steps}, which does not divide the {model['num_timesteps']} timesteps of the scheduler; "
            "accepted: a divisor"
        )
    facts = _facts(model, config.format.num_steps)
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(facts, peak_memory_bytes=3.0 * num_bytes, disk_bytes=stored_bytes(facts))


def export_sampler_graph(config: ExportConfig, inputs: ExportInputs, content: Path) -> SamplerGraphArtifact:
    """Write the graph of every step, and hold its images to torch's. Raises ValueError where they differ."""
    from attar.compressors.diffusion.graph import export_sampler  # its libraries are in an extra

    form = cast(OnnxFormat, config.format)
    denoiser = load_denoiser(inputs.model.path)
    steps = bar("tracing the graph", 1, "steps")
    graph = export_sampler(denoiser.net, denoiser.process, denoiser.shape, form.num_steps, form.opset)
    steps.advance()
    write_graph(graph, content)
    shutil.copytree(inputs.model.path / SCHEDULER, content / SCHEDULER)
    num_images = max(2, config.num_prompts)
    noise = torch.randn(num_images, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(num_images) % denoiser.num_labels
    expected = sampled(predictor(denoiser.net), denoiser.process, noise, classes, form.num_steps)
    actual = GraphSampler(open_session(content), CPU)(noise, classes)
    difference = float((expected - actual).abs().max())
    metric("max_pixel_difference", difference)
    note(f"the graph's {num_images} images of {form.num_steps} steps are torch's to {difference:.1e}")
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"the exported graph is not the sampler: a pixel differs by {difference:.2g}; accepted: {MAX_DIFFERENCE:g}"
        )
    made = {**_facts(inputs.model.facts, form.num_steps), "max_pixel_difference": difference}
    return SamplerGraphArtifact.at(content, made, companion_bytes=companion_bytes(content))


def _facts(model: Facts, num_steps: int) -> Facts:
    copied = {name: model[name] for name in COPIED if name in model}
    return {**form_of(model), **copied, "num_steps": num_steps, "format": "onnx", "quantization": "none"}
