"""A denoiser in torch or its sampler's graph, behind one call: noise and classes in, images out, forwards counted."""

from __future__ import annotations

from typing import Any, Protocol, cast

from torch import Tensor

from attar.compressors.diffusion.net import Predict, guided, predictor
from attar.compressors.diffusion.sampler import Counted, sampled
from attar.compressors.diffusion.session import GraphSampler
from attar.compressors.export.runtime import CPU
from attar.compressors.guidance.denoiser import DenoiserAdapters
from attar.registry.artifacts.handles import AdapterArtifact, DenoiserArtifact, SamplerGraphArtifact
from attar.stages.artifacts.denoiser.folder import Denoiser, load_denoiser
from attar.stages.artifacts.denoiser.guidance import attach_guidance
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.compare.sample.config import SampleConfig
from attar.stages.runtime.device import pick_device


class Drawing(Protocol):
    """Draws images of noise. `num_forwards`: how often a batch went through the net so far; `num_classes`: those that can be asked for."""

    num_classes: int

    @property
    def num_forwards(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor: ...


class TorchDrawing:
    """A denoiser under its deterministic sampler."""

    def __init__(
        self, denoiser: Denoiser, config: SampleConfig, num_classes: int, adapters: DenoiserAdapters | None = None
    ) -> None:
        self._denoiser, self._num_steps, self.num_classes = denoiser, config.num_steps, num_classes
        self._counted = Counted(predictor(denoiser.net))
        if adapters is None:
            self._predict = guided(self._counted, config.guidance_scale, denoiser.num_labels - 1)
        else:
            self._predict = _in_one_pass(self._counted, adapters, config.guidance_scale)

    @property
    def num_forwards(self) -> int:
        return self._counted.num_forwards

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._denoiser.shape

    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor:
        device = next(self._denoiser.net.parameters()).device
        process = self._denoiser.process
        return sampled(self._predict, process, noise.to(device), labels.to(device), self._num_steps).cpu()


class GraphDrawing:
    """The graph of a whole sampler: its steps are in it, each a forward."""

    def __init__(
        self, session: Any, shape: tuple[int, int, int], num_steps: int, num_classes: int, scale: float | None = None
    ) -> None:
        self._sampler, self.shape, self._num_steps, self.num_classes = session, shape, num_steps, num_classes
        self._scale, self.num_forwards = scale, 0

    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor:
        self.num_forwards += self._num_steps
        return self._sampler(noise, labels, None if self._scale is None else noise.new_full((len(noise),), self._scale))


def _in_one_pass(predict: Predict, adapters: DenoiserAdapters, scale: float) -> Predict:
    def one_pass(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        with adapters.at(states.new_full((len(states),), scale)):
            return predict(states, times, classes)

    return one_pass


def opened(
    model: DenoiserArtifact | SamplerGraphArtifact,
    config: SampleConfig,
    num_classes: int,
    guidance: AdapterArtifact | None = None,
) -> Drawing:
    """Return a model ready to draw. Raises ValueError as loading it does."""
    facts = model.facts
    if model.is_graph:
        shape = (facts.num_image_channels, facts.sample_size, facts.sample_size)
        scale = config.guidance_scale if "min_scale" in facts else None
        session = GraphSampler(open_session(model.path, is_guided=scale is not None), CPU)
        return GraphDrawing(session, shape, config.num_steps, num_classes, scale)
    denoiser, base = load_denoiser(model.path, pick_device()), cast(DenoiserArtifact, model)
    adapters = None if guidance is None else attach_guidance(denoiser, guidance, base)
    return TorchDrawing(denoiser, config, num_classes, adapters)
