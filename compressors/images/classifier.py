"""An image classifier, torch or graph, under one interface. Pixels in, a logit a class out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageRunner(Protocol):
    """What turns pixels into logits: torch or a graph."""

    @property
    def device(self) -> torch.device: ...

    def classify(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return a logit a class of each image."""
        ...


class ImageClassifier(nn.Module):
    """A transformers classifier that gives its logits alone, as one module and as an `ImageRunner`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.model.device

    def forward(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return a logit a class of each image."""
        return self.model(pixel_values=pixels.to(self.model.device, self.model.dtype)).logits

    @torch.inference_mode()
    def classify(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return the logits without gradient."""
        return self(pixels)


def logits_of(
    runner: ImageRunner,
    batches: Iterable[Float[Tensor, "N C H W"]],
    on_batch: Callable[[int], None] = lambda count: None,
) -> Float[Tensor, "N K"]:
    """Return the logits of all images, in their order, in float32 on the CPU."""
    parts = []
    for pixels in batches:
        parts.append(runner.classify(pixels).float().cpu())
        on_batch(len(pixels))
    return torch.cat(parts)


def with_classes(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Give a classifier a new last layer, all zeros, for other classes. What lies before it stays.

    Zeros: every class is as likely at the start, whatever the seed, and the layer's gradient is there from the first step on.
    """
    head = last_layer(model)
    new = nn.Linear(head.in_features, len(names), bias=head.bias is not None, dtype=head.weight.dtype)
    nn.init.zeros_(new.weight)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent_name, _, name = _name_of(model, head).rpartition(".")
    setattr(model.get_submodule(parent_name), name, new)
    model.config.num_labels = len(names)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    if hasattr(model, "num_labels"):
        model.num_labels = len(names)  # type: ignore[assignment] - a number that families keep beside the config's


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """Return the layer that gives the logits. Raises ValueError for a classifier whose head is no single matrix."""
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("classifier")
    ]
    if len(layers) != 1 or layers[0].out_features != model.config.num_labels:
        raise ValueError(
            f"{type(model).__name__}: {len(layers)} matrices in its head; accepted: one, with a row a class"
        )
    return layers[0]


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
