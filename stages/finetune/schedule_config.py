"""Rows, schedule, evaluation and micro-batches, which every training has. What it learns, for how long, what it is judged by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from attar.compressors.images.augment import AUGMENTATIONS, Augmentation
from attar.compressors.masked.hiding import HIDING_RULES, HidingRule, RandomCount
from attar.stages.contract import StageConfig
from attar.stages.finetune.objective_spec import Component, built
from attar.stages.runtime.device import Precision
from attar.stages.runtime.method_field import MethodField

# The fewest tokens that may be asked for in one forward and backward pass.
MIN_MICRO_BATCH = 16
StopOn = Literal["loss", "quality"]


class ScheduleConfig(StageConfig):
    """How many steps, of how many tokens, and how far each goes."""

    num_epochs: int = Field(default=2, ge=1)
    """Passes over the training rows, unless training stops early."""

    max_steps: int = Field(default=0, ge=0)
    """End after this many optimizer steps, with the learning rate falling over them; 0: after the epochs."""

    max_minutes: float = Field(default=0.0, ge=0.0)
    """End behind the last whole pass that fits into so many minutes; too few for one pass are refused after a few steps. 0: no limit.
    How many passes fit depends on the machine."""

    tokens_per_step: int = Field(default=2048, ge=16)
    """Tokens, prompts included, behind one optimizer step."""

    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW, after the warm-up."""

    decay: Literal["cosine", "linear", "none"] = "cosine"
    """How the learning rate falls to zero from there."""

    warmup_fraction: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of the steps in which the learning rate rises."""

    weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW weight decay of what is trained."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    average_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of a running mean of the weights, which is then what is evaluated and kept; 0: none."""

    seed: int = 0
    """Seed of the adapter's initial weights and of the order of rows."""


class HeldoutConfig(StageConfig):
    """The evaluations on held-out rows while training goes on, which choose the weights that are kept."""

    every: int = Field(default=10, ge=1)
    """Steps between two evaluations on the held-out rows."""

    stop_on: StopOn = "loss"
    """What they judge by: held-out loss, or the share of checkable held-out questions answered right (loss breaks ties)."""

    patience: int = Field(default=3, ge=0)
    """Stop after this many without a better one; 0: never. The best weights seen are the ones kept; without held-out rows the last."""


class CheckpointConfig(StageConfig):
    """When all that is needed to continue is written."""

    every: int = Field(default=0, ge=0)
    """Steps between two checkpoints; 0: by time alone."""

    minutes: float = Field(default=5.0, gt=0)
    """Minutes after which a checkpoint is due in any case."""


class ComputeConfig(StageConfig):
    """In what parts and in what precision a step is computed."""

    precision: Precision = "auto"
    """Dtype of the frozen base and of matrix products; what is trained is always float32."""

    tokens_per_micro_batch: int = Field(default=0, ge=0)
    """Tokens in one forward and backward pass; less needs less memory and changes nothing else. Halved by itself when memory runs out.
    0: 512 on a CPU, whose products are as fast as with more, and 4096 on an accelerator."""

    gradient_checkpointing: bool = False
    """Keep only what enters each block and compute the block again for its gradient: the same weights in less memory, at a third more work
    at least. https://arxiv.org/abs/1604.06174"""

    is_packed: bool = True
    """Put several rows into one sequence where the model keeps them apart (checked before training)."""

    vocabulary_sample: int = Field(default=0, ge=0)
    """Compare distributions at each step over so many entries of the vocabulary: three quarters the most frequent of the rows, a quarter
    drawn anew to stand for the rest, and the tokens of the batch; 0: over all. Costs less where the output head is most of a step;
    evaluations on held-out rows stay whole. For given answers, a live teacher or none, and losses that are sums over the vocabulary."""

    num_shards: int = Field(default=1, ge=1)
    """Processes of this machine that train together, one a GPU, each with its part of the blocks' weights, gradients and moments, and its
    share of every step (FSDP2); embedding and head are whole in each. On a CPU they talk by gloo. 1: this process alone.
    https://arxiv.org/abs/2304.11277"""

    @field_validator("tokens_per_micro_batch")
    @classmethod
    def _holds_a_row(cls, value: int) -> int:
        if 0 < value < MIN_MICRO_BATCH:
            raise ValueError(f"{value} tokens hold no row; accepted: 0, or {MIN_MICRO_BATCH} and more")
        return value


# answers: those of the answers, and of plain text. all: prompts included.
Learned = Literal["answers", "all"]


class MasksConfig(StageConfig):
    """Of a causal model that is to fill masks. What stands for a hidden token, and which tokens of an answer a step hides.

    A step draws a block of each row's answer; what lies behind it is left out, as in decoding.
    """

    token: str = Field(min_length=1)
    """A token of the tokenizer that no text has, such as a reserved one: it stands for a hidden token, in training and in decoding."""

    block_size: int = Field(default=32, ge=1, le=1024)
    """Tokens of an answer that see each other, and that are written together. The last block of an answer is filled up with its end."""

    hide: Annotated[HidingRule, MethodField(HIDING_RULES, "hide", "random")] = RandomCount()
    """Which tokens of the block are hidden and learned: {kind: random} so many of them, {kind: complements, fraction: 0.5} a half and in a
    second view the other, {kind: whole} all."""


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

    classes: list[int] = []
    """Of a denoiser: the classes that are learned, images of others left out, such as a student's own among several; empty: all."""

    masks: MasksConfig | None = None
    """Of a causal language model: hide tokens of the answers, which are then learned from both sides, so that the model fills several masks
    a pass, such as {token: "<|reserved|>", block_size: 32}; null: each token is learned from those before it."""

    @field_validator("classes")
    @classmethod
    def _different_classes(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value) or any(label < 0 for label in value):
            raise ValueError(f"classes are {value}; accepted: different ones, from 0 on")
        return value

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
