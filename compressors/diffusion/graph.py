"""Trace a denoiser's whole sampler into one ONNX graph: every step of it, so that a runtime needs no scheduler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.diffusion.sampler import unrolled
from attar.compressors.diffusion.session import IMAGES, INPUTS, SCALES
from attar.compressors.export.exporter import trace
from attar.compressors.export.tidy import tidy

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra


class TracedSampler(nn.Module):
    """Noise and classes in, images in [-1, 1] out. With adapters, attached to the net, a scale of guidance for each row too."""

    def __init__(self, net: nn.Module, process: NoiseProcess, num_steps: int, adapters: Any = None) -> None:
        super().__init__()
        self.net, self._process, self._num_steps, self.adapters = net, process, num_steps, adapters

    def forward(
        self,
        noise: Float[Tensor, "B C H W"],
        classes: Int[Tensor, "B"],
        guidance_scale: Float[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        guidance: AbstractContextManager[None] = nullcontext()
        if self.adapters is not None:
            guidance = self.adapters.at(guidance_scale)
        with guidance:
            made = unrolled(predictor(self.net), self._process, noise, classes, self._num_steps)
        return made.clamp(-1.0, 1.0)


def export_sampler(
    net: nn.Module,
    process: NoiseProcess,
    shape: tuple[int, int, int],
    num_steps: int,
    opset: int,
    adapters: nn.Module | None = None,
) -> ir.Model:
    """Return the graph of a sampler in float32, the batch dynamic. `adapters`: of guidance, attached to the net.

    Raises ValueError for a net that has no graph.
    """
    import onnx_ir as ir  # in an extra

    batch = torch.export.Dim("batch_size")
    # above 1: the tracer specialises on 0 and 1
    example = (torch.zeros(3, *shape), torch.zeros(3, dtype=torch.long), torch.ones(3))
    names = [*INPUTS, SCALES]
    num_inputs = len(INPUTS) if adapters is None else len(names)
    with torch.no_grad():
        graph = trace(
            TracedSampler(net, process, num_steps, adapters),
            example[:num_inputs],
            name=type(net).__name__,
            opset=opset,
            input_names=names[:num_inputs],
            output_names=[IMAGES],
            dynamic_shapes=tuple({0: batch} for _ in range(num_inputs)),
        )
    tidy(graph)
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        value.shape = ir.Shape(["batch_size"] if value.name in (INPUTS[1], SCALES) else ["batch_size", *shape])
    return graph
