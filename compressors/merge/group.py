"""The tensors of one name in all models of a merge. They are read in chunks, so that nothing is copied twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.setting import TensorLocation

# Elements in float32 worked on at a time: with a few models, what fits into a core's cache.
CHUNK_ELEMENTS = 1 << 17


class MergeError(ValueError):
    """The tensors cannot be merged; the message names the tensor and the model."""


@dataclass(frozen=True)
class TensorGroup:
    """One name's tensor in every model, and in their common base where the method reads one; all of one shape."""

    location: TensorLocation
    models: tuple[Tensor, ...]
    base: Tensor | None = None

    def chunks(self) -> Iterator[Float[Tensor, "M C"]]:
        """Yield the models' elements in order, in float32. Raises MergeError for a number that is not finite."""
        for parts in self.parts(with_base=False):
            rows = torch.stack([part.float() for part in parts])
            self.check_finite(rows, parts)
            yield rows

    def deltas(self) -> Iterator[tuple[Float[Tensor, "M C"], Float[Tensor, "C"]]]:
        """Yield (models minus base, base) in order, in float32. Raises MergeError for a number that is not finite."""
        for parts in self.parts(with_base=True):
            origin = parts[-1].float()
            rows = torch.stack([part.float() - origin for part in parts[:-1]])
            self.check_finite(rows, parts)
            yield rows, origin

    def parts(self, *, with_base: bool) -> Iterator[list[Tensor]]:
        """Yield the same stretch of every model, and last of the base, as they are in memory, in order."""
        assert self.base is not None or not with_base, "the stage gives a base to a method that needs one"
        tensors = (*self.models, self.base) if with_base else self.models
        flat = [tensor.reshape(-1) for tensor in tensors if tensor is not None]
        for start in range(0, self.num_elements, CHUNK_ELEMENTS):
            yield [tensor[start : start + CHUNK_ELEMENTS] for tensor in flat]

    def check_finite(self, made: Tensor, parts: Sequence[Tensor]) -> None:
        """Raise MergeError naming the model whose part holds NaN or infinity. `made` is of them all, so that it would not be finite."""
        # a sum is one quick pass: not finite whenever one number is not, and rarely when it overflows
        if bool(made.sum().isfinite()):
            return
        for index, part in enumerate(parts):
            if not bool(part.isfinite().all()):
                who = f"student {index + 1}" if index < len(self.models) else "base"
                raise MergeError(f"{self.location.name} of {who} holds a number that is not finite (NaN or infinity)")

    @property
    def num_elements(self) -> int:
        """Elements of one tensor."""
        return self.models[0].numel()


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


def gram(group: TensorGroup, *, of_deltas: bool = False) -> Float[Tensor, "M M"]:
    """Return the inner products of the models' tensors as flat vectors, or of their changes from the base, in float64."""
    num_models = len(group.models)
    total = torch.zeros(num_models, num_models, dtype=torch.float64)
    # the angle of nearly parallel vectors lies in digits that float32 has not
    buffer = torch.empty(num_models, min(CHUNK_ELEMENTS, max(1, group.num_elements)), dtype=torch.float64)
    for parts in group.parts(with_base=of_deltas):
        rows = buffer[:, : len(parts[0])]
        for row, part in zip(rows, parts[:num_models], strict=True):
            row.copy_(part)
            if of_deltas:
                row.sub_(parts[-1])
        group.check_finite(total.addmm_(rows, rows.T), parts)
    return total


def combine(rows: Sequence[Tensor], coefficients: Sequence[float]) -> Float[Tensor, "C"]:
    """Return the sum of float32 rows times their coefficients."""
    total = rows[0] * coefficients[0]
    for row, coefficient in zip(rows[1:], coefficients[1:], strict=True):
        total.add_(row, alpha=coefficient)
    return total


def combined(group: TensorGroup, coefficients: Sequence[float]) -> Iterator[Float[Tensor, "C"]]:
    """Yield the sum of the models times their coefficients. Raises MergeError for a number that is not finite."""
    for parts in group.parts(with_base=False):
        total = combine([part.float() for part in parts], coefficients)
        group.check_finite(total, parts)
        yield total


def combined_deltas(group: TensorGroup, coefficients: Sequence[float]) -> Iterator[Float[Tensor, "C"]]:
    """Yield the base plus the sum of the models' changes from it times their coefficients. Raises MergeError as `combined`."""
    for parts in group.parts(with_base=True):
        origin = parts[-1].float()
        total = combine([part.float() - origin for part in parts[:-1]], coefficients).add_(origin)
        group.check_finite(total, parts)
        yield total
