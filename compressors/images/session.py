"""Run an image classifier's graph under the interface of a torch classifier."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# The names of optimum's graphs of image classifiers.
PIXELS, LOGITS = "pixel_values", "logits"


class GraphClassifier:
    """An onnxruntime session that classifies images, as an `ImageRunner`.

    Raises ValueError when onnxruntime fell back to another provider: it does so silently.
    """

    device = torch.device("cpu")  # where pixels and logits lie, wherever the session computes

    def __init__(self, session: Any, provider: str) -> None:
        actual = session.get_providers()[0]
        if actual != provider:
            raise ValueError(f"onnxruntime runs on {actual}, not on {provider}: its library or driver is missing")
        self.session = session

    def classify(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return a logit a class of each image."""
        (logits,) = self.session.run([LOGITS], {PIXELS: pixels.float().contiguous().numpy()})
        return torch.from_numpy(logits)
