"""The tensors of one name in all models to be merged, read in chunks, so that a merge needs no second copy of anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from compressors.merge.setting import Place

# Elements in float32 worked on at a time: with a few models, what fits into a core's cache.
CHUNK_ELEMENTS = 1 << 17


class MergeError(ValueError):
    """The tensors cannot be merged; the message names the tensor and the model."""


@dataclass(frozen=True)
class TensorGroup:
    """One name's tensor in every model, and in their common base where the method reads one; all of one shape."""

    place: Place
    models: tuple[Tensor, ...]
    base: Tensor | None = None

    def chunks(self) -> Iterator[Float[Tensor, "M C"]]:
        """Yield the models' elements in order, in float32. Raises MergeError for a number that is not finite."""
        for rows, _ in self._chunks(is_read=False):
            yield rows

    def deltas(self) -> Iterator[tuple[Float[Tensor, "M C"], Float[Tensor, "C"]]]:
        """Yield (models less base, base) in order, in float32. Raises MergeError for a number that is not finite."""
        assert self.base is not None, "the stage gives a base to a method that needs one"
        for rows, origin in self._chunks(is_read=True):
            yield rows - origin, origin

    @property
    def num_elements(self) -> int:
        """Elements of one tensor."""
        return self.models[0].numel()

    def _chunks(self, is_read: bool) -> Iterator[tuple[Tensor, Tensor]]:
        tensors = [*self.models, *([self.base] if is_read and self.base is not None else [])]
        flat = [tensor.reshape(-1) for tensor in tensors]
        for start in range(0, self.num_elements, CHUNK_ELEMENTS):
            parts = torch.stack([tensor[start : start + CHUNK_ELEMENTS].float() for tensor in flat])
            self._check_finite(parts)
            yield parts[: len(self.models)], parts[-1]

    def _check_finite(self, parts: Float[Tensor, "M C"]) -> None:
        # a sum is one quick pass; it is not finite whenever one number is not
        if bool(parts.sum().isfinite()) or bool(parts.isfinite().all()):
            return
        index = int((~parts.isfinite().all(dim=1)).nonzero()[0])
        who = f"student {index + 1}" if index < len(self.models) else "base"
        raise MergeError(f"{self.place.name} of {who} holds a number that is not finite (NaN or infinity)")


@dataclass(frozen=True)
class Merged:
    """The merged tensor's elements in order, chunk by chunk in float32, and which way it was merged."""

    chunks: Iterator[Float[Tensor, "C"]]
    branch: str

    def tensor(self, like: Tensor) -> Tensor:
        """Return the chunks as one tensor in the shape and dtype of `like`."""
        parts = [chunk.to(like.dtype) for chunk in self.chunks]
        return torch.cat(parts).reshape(like.shape) if parts else torch.empty_like(like)


class MergeMethod(Protocol):
    """Merges the tensors of one name. Frozen, with its parameters as fields."""

    @property
    def needs_base(self) -> bool:
        """Whether the models' common base is read."""
        ...

    @property
    def num_models(self) -> tuple[int, int]:
        """The least and the most models that are accepted; 0: no upper limit."""
        ...

    def __call__(self, group: TensorGroup) -> Merged: ...


def gram(chunks: Iterator[Float[Tensor, "M C"]], num_models: int) -> Float[Tensor, "M M"]:
    """Return the inner products of the models' tensors as flat vectors, in float64."""
    total = torch.zeros(num_models, num_models, dtype=torch.float64)
    for rows in chunks:
        double = rows.double()  # the angle of nearly parallel vectors lies in digits that float32 has not
        total += double @ double.T
    return total


def combine(rows: Float[Tensor, "M C"], coefficients: Sequence[float]) -> Float[Tensor, "C"]:
    """Return the sum of the rows times their coefficients."""
    total = rows[0] * coefficients[0]
    for row, coefficient in zip(rows[1:], coefficients[1:], strict=True):
        total.add_(row, alpha=coefficient)
    return total


def combined(group: TensorGroup, coefficients: Sequence[float]) -> Iterator[Float[Tensor, "C"]]:
    """Yield the sum of the models times their coefficients."""
    for rows in group.chunks():
        yield combine(rows, coefficients)


def combined_deltas(group: TensorGroup, coefficients: Sequence[float]) -> Iterator[Float[Tensor, "C"]]:
    """Yield the base plus the sum of the models' changes from it times their coefficients."""
    for deltas, origin in group.deltas():
        yield combine(deltas, coefficients).add_(origin)
