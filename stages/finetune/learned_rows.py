"""Which rows a training learns, how far of each, and how images are changed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from attar.compressors.images.augment import AUGMENTATIONS, Augmentation
from attar.stages.contract import StageConfig
from attar.stages.finetune.objective_spec import Component, built

# answers: those of the answers, and of plain text. all: prompts included.
Learned = Literal["answers", "all"]


class RowsConfig(StageConfig):
    """Which tokens of the data are learned."""

    learn: Learned = "answers"
    """Which tokens are learned: those of the answers (and of plain text), or all, prompts included."""

    shares: list[float] = []
    """Share of the tokens taken from each input of `data`, in their order; empty: each input once an epoch."""

    max_tokens: int = Field(default=1024, ge=8)
    """Rows longer than this, prompt included, are cut at the end; plain text is cut into pieces of it."""

    augment: list[Component] = []
    """Of images: how each is changed, anew at every step, such as [flip, {shift: {fraction: 0.1}}, crop, erase]. Evaluations see them as
    they are."""

    @field_validator("augment")
    @classmethod
    def _known_augmentations(cls, value: list[Component]) -> list[Component]:
        augmentations_of(value)
        return value

    @field_validator("shares")
    @classmethod
    def _above_zero(cls, value: list[float]) -> list[float]:
        if any(share <= 0 for share in value):
            raise ValueError(f"shares are {value}; accepted: numbers above 0")
        return value


def augmentations_of(components: list[Component]) -> tuple[Augmentation, ...]:
    """Return the augmentations that a recipe names. Raises ValueError for an unknown one, or a wrong parameter."""
    return tuple(built(AUGMENTATIONS, component, "augment") for component in components)
