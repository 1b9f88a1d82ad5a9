"""How long a training lasts, how fast it moves and in what parts: settings that every training has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from attar.compressors.distill.examples.steps import Schedule
from attar.stages.contract import StageConfig
from attar.stages.runtime.device import Precision

if TYPE_CHECKING:
    import torch

# Tokens in one forward and backward pass: the fewest that may be asked for, and what is taken where none are.
MIN_MICRO_BATCH, CPU_MICRO_BATCH, ACCELERATOR_MICRO_BATCH = 16, 512, 4096


class ScheduleConfig(StageConfig):
    """Steps, learning rate, looks, checkpoints, and what lies in memory at once."""

    num_epochs: int = Field(default=2, ge=1)
    """Passes over the training rows, unless training stops early."""

    max_steps: int = Field(default=0, ge=0)
    """End after this many optimizer steps, with the learning rate falling over them; 0: after the epochs."""

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
    """Decay of a running mean of the weights, which is then what is looked at and kept; 0: none."""

    tokens_per_step: int = Field(default=2048, ge=16)
    """Tokens, prompts included, behind one optimizer step."""

    tokens_per_micro_batch: int = Field(default=0, ge=0)
    """Tokens in one forward and backward pass; less needs less memory and changes nothing else. Halved by itself when memory runs out.
    0: 512 on a CPU, whose products are as fast as with more, and 4096 on an accelerator."""

    gradient_checkpointing: bool = False
    """Keep only what enters each block and compute the block again for its gradient: the same weights in less memory, at a third more work
    at least. https://arxiv.org/abs/1604.06174"""

    max_tokens: int = Field(default=1024, ge=8)
    """Rows longer than this, prompt included, are cut at the end; plain text is cut into pieces of it."""

    is_packed: bool = True
    """Put several rows into one sequence where the model keeps them apart (checked before training)."""

    eval_every: int = Field(default=10, ge=1)
    """Steps between two looks at the held-out rows."""

    stop_on: Literal["loss", "quality"] = "loss"
    """What a look judges by: held-out loss, or the share of checkable held-out questions answered right (loss breaks ties)."""

    patience: int = Field(default=3, ge=0)
    """Stop after this many looks without a better one; 0: never. The best weights seen are the ones kept; without held-out rows the last."""

    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between two checkpoints, each all that is needed to continue; 0: by time alone."""

    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """Minutes after which a checkpoint is due in any case."""

    seed: int = 0
    """Seed of the adapter's initial weights and of the order of rows."""

    precision: Precision = "auto"
    """Dtype of the frozen base and of matrix products; what is trained is always float32."""

    @field_validator("tokens_per_micro_batch")
    @classmethod
    def _holds_a_row(cls, value: int) -> int:
        if 0 < value < MIN_MICRO_BATCH:
            raise ValueError(f"{value} tokens hold no row; accepted: 0, or {MIN_MICRO_BATCH} and more")
        return value

    def schedule(self, device: torch.device) -> Schedule:
        """Return how long training lasts and how fast it moves, with micro-batches that suit the device."""
        told = Schedule(**{name: getattr(self, name) for name in Schedule.__dataclass_fields__})
        fitting = CPU_MICRO_BATCH if device.type == "cpu" else ACCELERATOR_MICRO_BATCH
        return told if told.tokens_per_micro_batch else replace(told, tokens_per_micro_batch=fitting)
