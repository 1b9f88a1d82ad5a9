"""What the stage `finetune` is told: the adapter, what it learns from, for how long, and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.adapt.catalogue import ADAPT_METHODS, AdaptMethod
from attar.compressors.catalogue import build
from attar.compressors.distill.losses.objective import projections_read
from attar.compressors.distill.losses.reduction import Reduction
from attar.registry.artifacts.handles import DatasetArtifact, FittedArtifact, ModelArtifact
from attar.stages.artifacts.model.folder import QuantizedBase
from attar.stages.finetune.distillation_config import (
    check_rollout,
    check_sample,
    check_source,
    check_views,
    context_of,
    rollout_of,
)
from attar.stages.finetune.objective_spec import ObjectiveSpec, Plug, read_objective, weighed_objective
from attar.stages.finetune.schedule_config import ScheduleConfig


class FinetuneConfig(ScheduleConfig):
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

    objectives: dict[str, float | ObjectiveSpec] = {"next_token": 1.0}
    """What is learned: `next_token` or `forward_kl` (toward the teacher) with its weight, or any name with an objective made of plugs."""

    teacher: Plug = "auto"
    """Who the teacher is. auto: the input `teacher` where it is given, else what is recorded in the data; recorded; input; or the
    student itself: base (adapters off), live, start, ema, previous_epoch, generation."""

    run_teacher_once: bool = False
    """Run the input `teacher` once over all examples and keep its last states (2 bytes x hidden size a token in bf16), not at every step:
    its whole distribution at the price of its head. For given answers, and losses that read no states within it."""

    vocabulary_sample: int = Field(default=0, ge=0)
    """Compare distributions at each step over so many entries of the vocabulary: three quarters the most frequent of the rows, a quarter
    drawn anew to stand for the rest, and the tokens of the batch; 0: over all. Costs less where the output head is most of a step; looks
    at held-out rows stay whole. For given answers, a live teacher or none, and losses that are sums over the vocabulary."""

    past: Plug = "none"
    """Who stands behind `past` in a target: the student itself by one of these rules; none."""

    anchor: Plug = "none"
    """Who stands behind `anchor`: input (the input `anchor`), the student itself by one of these rules, or none."""

    teacher_context: Plug = "none"
    """What a live teacher reads that the student does not: reference, own_answer, sibling, demonstrations, skill; none."""

    learn_hinted: bool = False
    """Learn every row of the data a second time, behind what the teacher is told: route `hinted`, where the first time is `plain`."""

    fitted: str = ""
    """A field of this config, such as objectives.mixed.target.mix.share, whose value is what the input `fitted` found."""

    rollout: Plug = "data"
    """Who writes what is learned: data, student, mixed, teacher, repair; all but data anew at every step."""

    learn: Literal["answers", "all"] = "answers"
    """Which tokens are learned: those of the answers (and of plain text), or all, prompts included."""

    shares: list[float] = []
    """Share of the tokens taken from each input of `data`, in their order; empty: each input once an epoch."""

    @field_validator("objectives", mode="before")
    @classmethod
    def _read_objectives(cls, value: Any) -> Any:
        return (
            {name: read_objective(name, entry) for name, entry in value.items()} if isinstance(value, dict) else value
        )

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, value: dict[str, float | ObjectiveSpec]) -> dict[str, float | ObjectiveSpec]:
        read = [weighed_objective(name, entry) for name, entry in value.items()]
        if not any(objective.counts for objective in read):
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
        for party in ("teacher", "past", "anchor"):
            check_source(party, getattr(self, party), self.method)
        objectives = self.reduction.objectives
        check_views(objectives, self.past, self.anchor)
        context, rollout = context_of(self.teacher_context), rollout_of(self.rollout)
        check_rollout(objectives, rollout, context, has_sides=self.learn_hinted)
        if self.learn_hinted and (self.teacher_context == "none" or not context.is_known_before or rollout is not None):
            raise ValueError(
                "learn_hinted is for data behind a teacher_context that does not depend on the answer; a rollout has both_sides"
            )
        if self.run_teacher_once and (rollout is not None or projections_read(objectives.values())):
            raise ValueError(
                "run_teacher_once keeps the teacher's last states of given answers; a rollout, or a loss that reads its projections, "
                "needs it at every step"
            )
        if self.vocabulary_sample:
            check_sample(objectives, has_rollout=rollout is not None)
        if self.fitted:
            self.with_fitted(0.5)
        return self

    def with_fitted(self, value: float) -> FinetuneConfig:
        """Return the config with the field that `fitted` names at this value. Raises ValueError when there is no such number."""
        content = self.model_dump()
        *path, last = self.fitted.split(".")
        place: Any = content
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or not isinstance(place.get(last), int | float):
            raise ValueError(f"fitted is {self.fitted!r}, which names no number of this config")
        place[last] = value
        return FinetuneConfig.model_validate({**content, "fitted": ""})

    @property
    def reduction(self) -> Reduction:
        """The objectives that count, with their weights and schedules."""
        weights, schedules, objectives = {}, {}, {}
        for name, entry in self.objectives.items():
            read = weighed_objective(name, entry)
            if read.counts:
                objectives[name], weights[name] = read.objective, read.weight
                if read.schedules:
                    schedules[name] = read.schedules
        return Reduction(objectives, weights, schedules=schedules)

    @property
    def uses_teacher(self) -> bool:
        """True when an objective reads the teacher, or a rollout lets it write."""
        rollout = rollout_of(self.rollout)
        writes = rollout is not None and "teacher" in rollout.writers
        return writes or any("teacher" in one.requires.sources for one in self.reduction.objectives.values())

    def reads_record(self, has_teacher_input: bool) -> bool:
        """True when the teacher is the one recorded in the data."""
        is_recorded = self.teacher == "recorded" or (self.teacher == "auto" and not has_teacher_input)
        return is_recorded and self.uses_teacher

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
    """The student, the rows it learns from, a teacher that runs along where the rows carry no recorded one, an anchor beside it,

    and a number that an earlier stage fitted.
    """

    model: ModelArtifact
    data: tuple[DatasetArtifact, ...]
    teacher: ModelArtifact | None = None
    anchor: ModelArtifact | None = None
    fitted: FittedArtifact | None = None


def check_parties(config: FinetuneConfig, has_teacher: bool, has_anchor: bool, has_fitted: bool = False) -> None:
    """Raise ValueError when a party is an input that is not given, or the teacher is asked for twice."""
    if config.teacher == "input" and not has_teacher:
        raise ValueError("teacher is 'input', but the node has no input `teacher`")
    if has_teacher and config.teacher not in ("auto", "input"):
        raise ValueError(
            f"teacher is {config.teacher!r}, but the node has an input `teacher` too; accepted: auto or input"
        )
    if config.run_teacher_once and not has_teacher:
        raise ValueError(
            "run_teacher_once is true, but the node has no input `teacher`; accepted: false, or that input"
        )
    if config.vocabulary_sample and config.reads_record(has_teacher):
        raise ValueError(
            "vocabulary_sample is for a live teacher, but it is what is recorded, a few candidates; accepted: 0, or the input `teacher`"
        )
    if config.anchor == "input" and not has_anchor:
        raise ValueError("anchor is 'input', but the node has no input `anchor`")
    if has_anchor and config.anchor != "input":
        raise ValueError(f"anchor is {config.anchor!r}, but the node has an input `anchor`; set anchor to input")
    if bool(config.fitted) != has_fitted:
        raise ValueError(f"fitted is {config.fitted!r}: the field to replace and the input `fitted` belong together")
    rollout = rollout_of(config.rollout)
    if rollout is not None and "teacher" in rollout.writers and config.reads_record(has_teacher):
        raise ValueError("rollout lets the teacher write, but the teacher is what is recorded; give a live one")
