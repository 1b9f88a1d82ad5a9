"""Trace a denoiser's whole sampler into one ONNX graph: every step of it, so that a runtime needs no scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.diffusion.sampler import unrolled
from attar.compressors.diffusion.session import IMAGES, INPUTS
from attar.compressors.export.exporter import trace
from attar.compressors.export.tidy import tidy

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra


class TracedSampler(nn.Module):
    """Noise and classes in, images in [-1, 1] out."""

    def __init__(self, net: nn.Module, process: NoiseProcess, num_steps: int) -> None:
        super().__init__()
        self.net, self._process, self._num_steps = net, process, num_steps

    def forward(self, noise: Float[Tensor, "B C H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        made = unrolled(predictor(self.net), self._process, noise, classes, self._num_steps)
        return made.clamp(-1.0, 1.0)


def export_sampler(
    net: nn.Module, process: NoiseProcess, shape: tuple[int, int, int], num_steps: int, opset: int
) -> ir.Model:
    """Return the graph of a sampler in float32, the batch dynamic. Raises ValueError for a net that has none."""
    import onnx_ir as ir  # in an extra

    batch = torch.export.Dim("batch_size")
    # above 1: the tracer specialises on 0 and 1
    example = (torch.zeros(3, *shape), torch.zeros(3, dtype=torch.long))
    with torch.no_grad():
        graph = trace(
            TracedSampler(net, process, num_steps),
            example,
            name=type(net).__name__,
            opset=opset,
            input_names=list(INPUTS),
            output_names=[IMAGES],
            dynamic_shapes=({0: batch}, {0: batch}),
        )
    tidy(graph)
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        value.shape = ir.Shape(["batch_size"] if value.name == INPUTS[1] else ["batch_size", *shape])
    return graph
