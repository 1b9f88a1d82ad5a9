"""What training asks of a model, as student and as teacher. A causal model under its head (student.py), an encoder, a denoiser: any module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

from torch import Tensor, nn

from attar.compressors.distill.teachers.outputs import TeacherOutputs


class TrainedModel(Protocol):
    """A `torch.nn.Module` that takes a modality's batches. `reads`: projections to keep of each forward pass, by name, where it has any."""

    reads: tuple[str, ...]
    training: bool

    def __call__(self, batch: Any, /) -> Tensor:
        """Return what the modality makes the student's views of, with gradient."""
        ...

    def outputs(self, batch: Any, weights: Mapping[str, Tensor] | None = None) -> TeacherOutputs:
        """Return what it makes of a batch, as a teacher's outputs. `weights`: by which it has just run in place of its own."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def train(self, mode: bool = True) -> Self: ...

    def eval(self) -> Self: ...
