"""What the stage `finetune` is told: the adapter, what it learns from, for how long, and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from compressors.adapt.catalogue import ADAPT_METHODS, AdaptMethod
from compressors.catalogue import build, did_you_mean
from compressors.distill.objectives import OBJECTIVES
from registry.artifact import DatasetArtifact, ModelArtifact
from stages.contract import StageConfig
from stages.device import Precision
from stages.model_folder import QuantizedBase


class FinetuneConfig(StageConfig):
    """The adapter, what it learns from, and for how long."""

    method: Literal["lora", "rslora", "dora", "full", "last_blocks"] = "lora"
    """Low-rank adapters (plain, rank-stabilised, weight-decomposed), all weights of the blocks, or the last blocks with the head."""

    rank: int = Field(default=16, ge=1)
    """Rank of low-rank adapters."""

    alpha: float = Field(default=32.0, gt=0)
    """Their scale: the update is multiplied by alpha / rank, under rslora by alpha / sqrt(rank)."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on their input, in [0, 1)."""

    targets: list[str] = []
    """Names of the matrices they sit on, such as q_proj; empty: every matrix of every block."""

    num_last_blocks: int = Field(default=2, ge=1)
    """How many blocks method last_blocks trains."""

    adapt_blocks: Literal["all", "after_cut"] = "all"
    """after_cut: only the block before the first removed one and those behind it learn; what lies before is run once, not every epoch."""

    quantized_base: QuantizedBase = "none"
    """Hold the frozen base in 4 bits (nf4) or 8 (int8) with bitsandbytes; low-rank methods only. https://arxiv.org/abs/2305.14314"""

    objectives: dict[str, float] = {"next_token": 1.0}
    """Weight of each objective: next_token, and forward_kl toward the recorded teacher of the data or the input `teacher`."""

    learn: Literal["answers", "all"] = "answers"
    """Which tokens are learned: those of the answers (and of plain text), or all, prompts included."""

    shares: list[float] = []
    """Share of the tokens taken from each input of `data`, in their order; empty: each input once an epoch."""

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

    tokens_per_micro_batch: int = Field(default=1024, ge=16)
    """Tokens in one forward and backward pass; less needs less memory and changes nothing else. Halved by itself when memory runs out."""

    max_tokens: int = Field(default=1024, ge=8)
    """Rows longer than this, prompt included, are cut at the end; plain text is cut into pieces of it."""

    is_packed: bool = True
    """Put several rows into one sequence where the model keeps them apart (checked before training)."""

    eval_every: int = Field(default=10, ge=1)
    """Steps between two looks at the held-out rows."""

    stop_on: Literal["loss", "quality"] = "loss"
    """What a look judges by: held-out loss, or the share of checkable held-out questions answered right (loss breaks ties)."""

    patience: int = Field(default=3, ge=0)
    """Stop after this many looks without a better one; 0: never. The best weights seen are the ones kept."""

    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between two checkpoints, each all that is needed to continue; 0: by time alone."""

    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """Minutes after which a checkpoint is due in any case."""

    seed: int = 0
    """Seed of the adapter's initial weights and of the order of rows."""

    precision: Precision = "auto"
    """Dtype of the frozen base and of matrix products; what is trained is always float32."""

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if name not in OBJECTIVES:
                raise ValueError(f"unknown objective {name!r}.{did_you_mean(name, OBJECTIVES)}")
            if weight < 0:
                raise ValueError(f"weight of {name} is {weight}; accepted: 0 or more")
        if not any(value.values()):
            raise ValueError("no objective has a weight above 0")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> FinetuneConfig:
        if self.quantized_base != "none" and self.method in ("full", "last_blocks"):
            raise ValueError(
                f"quantized_base is {self.quantized_base!r}, but method {self.method!r} trains the base itself"
            )
        if any(share <= 0 for share in self.shares):
            raise ValueError(f"shares are {self.shares}; accepted: numbers above 0")
        return self

    @property
    def adapt_method(self) -> AdaptMethod:
        """The method that makes weights trainable."""
        low_rank = {
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": tuple(self.targets),
            "is_rank_stabilized": self.method == "rslora",
            "is_decomposed": self.method == "dora",
        }
        params = {"full": {}, "last_blocks": {"num_blocks": self.num_last_blocks}}
        return build(ADAPT_METHODS, self.method, params.get(self.method, low_rank))


@dataclass(frozen=True, kw_only=True)
class FinetuneInputs:
    """The student, the rows it learns from, and a teacher that runs along where the rows carry no recorded one."""

    model: ModelArtifact
    data: tuple[DatasetArtifact, ...]
    teacher: ModelArtifact | None = None
