"""A frozen base with guidance adapters, as the training loop sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.teachers.student import Student
from attar.compressors.guidance.adapters import GuidanceAdapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def guided_student(model: PreTrainedModel, adapters: GuidanceAdapters) -> Student:
    """Return a student whose trained weights are the adapters', each row of a batch guided by its own scale."""
    model.requires_grad_(False)
    student = Student(model)
    adapters.attach(model)
    student.add_module("guidance", adapters)

    def set_scales(module: nn.Module, args: tuple[Batch]) -> None:
        scales = args[0].scales
        assert scales is not None, "rows to learn guidance from carry their scale"
        adapters.set_scale(scales)

    student.register_forward_pre_hook(set_scales)
    return student
