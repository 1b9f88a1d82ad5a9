"""Export a denoiser's whole sampler as one ONNX graph. Accepted only when it makes the same images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.sampler import sampled
from attar.compressors.diffusion.session import GraphSampler
from attar.compressors.export.runtime import CPU
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DenoiserArtifact, SamplerGraphArtifact
from attar.registry.artifacts.subjects import DENOISER, form_of
from attar.stages.artifacts.denoiser.folder import SCHEDULER, Denoiser, companion_bytes, load_denoiser
from attar.stages.artifacts.denoiser.guidance import attach_guidance, check_guidance
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.export.limits import graph_form
from attar.stages.runtime.progress import bar, metric, note

# Largest difference of a pixel in [-1, 1] after all steps: a fiftieth of a grey level of 256.
MAX_DIFFERENCE = 1e-3
COPIED = ("num_image_channels", "num_timesteps", "num_parameters", "num_products")


def sampler_graph_forecast(config: ExportConfig, model: Facts, given: Mapping[str, Sequence[Facts]]) -> Forecast:
    """Return what the graph will be. Raises ValueError for what no denoiser has: other formats, text, steps that do not meet."""
    accepted = "format.opset, format.num_steps, num_prompts"
    others = [name for name in given if name != "guidance"]
    more = ["max_logit_difference"]
    form = graph_form(config, DENOISER, others, takes="guidance", accepted=accepted, more=more, has_halves=False)
    for adapter in given.get("guidance", ()):
        check_guidance(adapter)
    if model.get("num_timesteps", 0) % form.num_steps:
        raise ValueError(
            f"format.num_steps is {form.num_steps}, which does not divide the {model['num_timesteps']} timesteps of the scheduler; "
            "accepted: a divisor"
        )
    facts = _facts(model, form.num_steps, *given.get("guidance", ()))
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(facts, peak_memory_bytes=3.0 * num_bytes, disk_bytes=stored_bytes(facts))


def export_sampler_graph(config: ExportConfig, inputs: ExportInputs, content: Path) -> SamplerGraphArtifact:
    """Write the graph of every step, and hold its images to torch's. Raises ValueError where they differ."""
    from attar.compressors.diffusion.graph import export_sampler  # its libraries are in an extra

    form = cast(OnnxFormat, config.format)
    denoiser = load_denoiser(inputs.model.path)
    steps = bar("tracing the graph", 1, "steps")
    base = cast(DenoiserArtifact, inputs.model)
    adapters = None if inputs.guidance is None else attach_guidance(denoiser, inputs.guidance, base)
    graph = export_sampler(denoiser.net, denoiser.process, denoiser.shape, form.num_steps, form.opset, adapters)
    steps.advance()
    write_graph(graph, content)
    shutil.copytree(inputs.model.path / SCHEDULER, content / SCHEDULER)
    difference = _difference(denoiser, adapters, content, max(2, config.num_prompts), form.num_steps)
    guided_by = () if inputs.guidance is None else (inputs.guidance.facts,)
    made = {**_facts(inputs.model.facts, form.num_steps, *guided_by), "max_pixel_difference": difference}
    return SamplerGraphArtifact.at(content, made, companion_bytes=companion_bytes(content))


def _difference(denoiser: Denoiser, adapters: Any, content: Path, num_images: int, num_steps: int) -> float:
    """Return how far a pixel of the graph is from torch's, guided at all scales from the lowest to the highest. Raises ValueError past the limit."""
    noise = torch.randn(num_images, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    classes, scales = torch.arange(num_images) % denoiser.num_labels, None
    guidance: AbstractContextManager[None] = nullcontext()
    if adapters is not None:
        scales = torch.linspace(adapters.scales.low, adapters.scales.high, num_images)
        guidance = adapters.at(scales)
    with guidance:
        expected = sampled(predictor(denoiser.net), denoiser.process, noise, classes, num_steps)
    session = open_session(content, is_guided=adapters is not None)
    actual = GraphSampler(session, CPU)(noise, classes, scales)
    difference = float((expected - actual).abs().max())
    metric("max_pixel_difference", difference)
    note(f"the graph's {num_images} images of {num_steps} steps are torch's to {difference:.1e}")
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"the exported graph is not the sampler: a pixel differs by {difference:.2g}; accepted: {MAX_DIFFERENCE:g}"
        )
    return difference


def _facts(model: Facts, num_steps: int, *guidance: Facts) -> Facts:
    copied = {name: model[name] for name in COPIED if name in model}
    scales = {name: adapter[name] for adapter in guidance for name in ("min_scale", "max_scale") if name in adapter}
    made = {"num_steps": num_steps, "format": "onnx", "quantization": "none"}
    return {**form_of(model), **copied, **scales, **made}
