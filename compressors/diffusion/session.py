"""Run the graph of a denoiser's whole sampler."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

INPUTS, IMAGES = ("noise", "classes"), "images"
# A third input, a number a row, of a sampler that is guided in one pass.
SCALES = "guidance_scale"


class GraphSampler:
    """An onnxruntime session that makes images of noise. Raises ValueError when onnxruntime fell back to another provider silently."""

    def __init__(self, session: Any, provider: str) -> None:
        actual = session.get_providers()[0]
        if actual != provider:
            raise ValueError(f"onnxruntime runs on {actual}, not on {provider}: its library or driver is missing")
        self.session = session

    def __call__(
        self, noise: Float[Tensor, "B C H W"], classes: Int[Tensor, "B"], scales: Float[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Return the images that the noise becomes, in [-1, 1]. `scales`: of a guided sampler."""
        read = dict(zip(INPUTS, (noise, classes), strict=True)) | ({} if scales is None else {SCALES: scales})
        (images,) = self.session.run([IMAGES], {name: tensor.numpy() for name, tensor in read.items()})
        return torch.from_numpy(images)
