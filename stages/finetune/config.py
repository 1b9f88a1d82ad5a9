"""What the stage `finetune` is told: what learns, what it learns from, for how long; and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import field_validator, model_validator

from attar.compressors.distill.losses.embeddings.views import TOKEN_STATES
from attar.compressors.distill.losses.objective import projections_read
from attar.compressors.distill.losses.reduction import Reduction
from attar.registry.artifacts.handles import AnyData, CompressorArtifact, FittedArtifact, ModelArtifact, Trainable
from attar.stages.contract import StageConfig
from attar.stages.finetune.adapt_config import Adapt, LowRank
from attar.stages.finetune.distillation_config import (
    check_before_prompt,
    check_rollout,
    check_sample,
    check_shards,
    check_source,
    check_views,
    uses_teacher,
)
from attar.stages.finetune.objective_spec import ObjectiveSpec, read_objective, weighed_objective
from attar.stages.finetune.schedule_config import (
    CheckpointConfig,
    ComputeConfig,
    HeldoutConfig,
    RowsConfig,
    ScheduleConfig,
)
from attar.stages.finetune.teacher_config import (
    NO_CONTEXT,
    Anchor,
    AutoTeacher,
    DataWrites,
    NoSource,
    Past,
    Rollout,
    Teacher,
    flat_teacher,
    has_both_sides,
    kind_of_source,
    policy_of,
    reads_record,
)
from attar.stages.runtime.older_fields import NOTHING, Moved, kind_of, within

LOW_RANK = ("lora", "rslora", "dora")
# Where the fields of the flat form are now.
FLAT = {
    "method": Moved("adapt.kind"),
    **{name: Moved(f"adapt.{name}", kinds=LOW_RANK) for name in ("rank", "alpha", "dropout", "targets")},
    "num_last_blocks": Moved("adapt.num_blocks", kinds=("last_blocks",)),
    "adapt_blocks": Moved("adapt.blocks"),
    "quantized_base": Moved("adapt.quantized_base", lambda value: NOTHING if value == "none" else value),
    "teacher": Moved("teacher", flat_teacher),
    "teacher_context": Moved("teacher.context", lambda value: NOTHING if value == "none" else kind_of(value)),
    "run_teacher_once": Moved("teacher.run_once", lambda value: NOTHING if value is False else value),
    "learn_hinted": Moved("rollout.both_sides", lambda value: NOTHING if value is False else value),
    **{name: Moved(name, kind_of) for name in ("past", "anchor", "rollout")},
    **within("rows", "learn", "shares", "max_tokens"),
    **within("schedule", *ScheduleConfig.model_fields),
    "eval_every": Moved("heldout.every"),
    **within("heldout", "stop_on", "patience"),
    "checkpoint_every": Moved("checkpoints.every"),
    "checkpoint_minutes": Moved("checkpoints.minutes"),
    **within("compute", *(name for name in ComputeConfig.model_fields if name != "num_shards")),
}


class FinetuneConfig(StageConfig):
    """What learns, what it learns from, and for how long."""

    adapt: Adapt = LowRank()
    """What of the student learns: {kind: lora, rank: 16} (or rslora, dora), {kind: full}, {kind: last_blocks, num_blocks: 2},
    {kind: quantization_aware, rounding: {kind: blocks, bits: 4}}; of a denoiser {kind: full} or {kind: guidance, adapter: cross}."""

    objectives: dict[str, float | ObjectiveSpec] = {"next_token": 1.0}
    """What is learned: `next_token` or `forward_kl` (toward the teacher) with its weight, or any name with an objective made of components."""

    teacher: Teacher = AutoTeacher()
    """Who the teacher is: {kind: auto}, {kind: recorded}, {kind: input}, {kind: random}, {kind: pool}, or
    {kind: self, rule: {kind: ema, decay: 0.999}}."""

    past: Past = NoSource()
    """Who stands behind `past` in a target: the student itself by a rule, {kind: previous_epoch}; none."""

    anchor: Anchor = NoSource()
    """Who stands behind `anchor`: {kind: input} (the input `anchor`), the student itself by a rule, or none."""

    rollout: Rollout = DataWrites()
    """Who writes what is learned: {kind: data}, or anew at every step {kind: student, num_samples: 8}, mixed, teacher, repair."""

    rows: RowsConfig = RowsConfig()
    """Which tokens of the data are learned."""

    schedule: ScheduleConfig = ScheduleConfig()
    """How many steps, of how many tokens, and how far each goes."""

    heldout: HeldoutConfig = HeldoutConfig()
    """The evaluations on held-out rows while training goes on, which choose the weights that are kept."""

    checkpoints: CheckpointConfig = CheckpointConfig()
    """When all that is needed to continue is written."""

    compute: ComputeConfig = ComputeConfig()
    """In what parts and in what precision a step is computed."""

    fitted: str = ""
    """A field of this config, such as objectives.mixed.target.mix.share, whose value is that of the input `fitted`."""

    moved: ClassVar[Mapping[str, Moved]] = FLAT

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
        objectives, policy, context = self.reduction.objectives, policy_of(self.rollout), self.teacher.context
        sources = {"past": kind_of_source(self.past), "anchor": kind_of_source(self.anchor)}
        teacher = {} if self.teacher.rule is None else {"teacher": kind_of_source(self.teacher.rule)}
        for name, kind in (teacher | sources).items():
            check_source(name, kind, self.adapt.kind, trains_base=self.adapt.trains_base)
        check_views(objectives, sources)
        check_rollout(objectives, policy, context, has_sides=has_both_sides(self.rollout))
        if has_both_sides(self.rollout) and (context == NO_CONTEXT or not context.is_known_before):
            raise ValueError(
                "rollout.both_sides is for data behind a teacher.context that does not depend on the answer"
            )
        if self.adapt.stands_before:
            check_before_prompt(
                self.adapt.kind,
                context,
                has_rollout=policy is not None,
                has_sides=has_both_sides(self.rollout),
                learn=self.rows.learn,
                stop_on=self.heldout.stop_on,
                others=sources,
            )
        if self.teacher.run_once and (policy is not None or {*projections_read(objectives.values())} - {TOKEN_STATES}):
            raise ValueError(
                "teacher.run_once keeps the teacher's last states of given answers; a rollout, or a loss that reads its projections, "
                "needs it at every step"
            )
        if self.compute.vocabulary_sample:
            check_sample(objectives, has_rollout=policy is not None)
        if self.compute.num_shards > 1:
            check_shards(
                self.compute.num_shards,
                self.adapt,
                rules={name for name, kind in (teacher | sources).items() if kind not in ("none", "input")},
                has_rollout=policy is not None,
                stop_on=self.heldout.stop_on,
            )
        if self.fitted:
            self.with_fitted(0.5)
        return self

    def with_fitted(self, value: float) -> FinetuneConfig:
        """Return the config with the field that `fitted` names at this value. Raises ValueError when there is no such number."""
        content = self.model_dump()
        *path, last = FLAT[self.fitted].path.split(".") if self.fitted in FLAT else self.fitted.split(".")
        holder: Any = content
        for part in path:
            holder = holder.get(part) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or not isinstance(holder.get(last), int | float):
            raise ValueError(f"fitted is {self.fitted!r}, which names no number of this config")
        holder[last] = value
        return FinetuneConfig.model_validate({**content, "fitted": ""})

    def with_random_teacher(self) -> FinetuneConfig | None:
        """Return the config with a random teacher, which reads what the other read; None where no objective reads a teacher."""
        if not uses_teacher(self.reduction.objectives, policy_of(self.rollout)):
            return None
        content = self.model_dump(mode="json", exclude_unset=True)
        context = content.get("teacher", {}).get("context")
        teacher = {"kind": "random"} if context is None else {"kind": "random", "context": context}
        return FinetuneConfig.model_validate({**content, "teacher": teacher})

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


@dataclass(frozen=True, kw_only=True)
class FinetuneInputs:
    """The student, its rows, and models that run along. A teacher where the rows carry no recorded one, or a pool of them, an anchor,

    a number that an earlier stage fitted, and a compressor of demonstrations that training begins with.
    """

    model: Trainable
    data: tuple[AnyData, ...]
    teacher: Trainable | None = None
    teachers: tuple[Trainable, ...] = ()
    anchor: ModelArtifact | None = None
    fitted: FittedArtifact | None = None
    start: CompressorArtifact | None = None


def check_inputs(
    config: FinetuneConfig, *, has_teacher: bool, has_anchor: bool, has_fitted: bool, num_pooled: int = 0
) -> None:
    """Raise ValueError when a source is an input that is not given, or the teacher is asked for twice."""
    teacher, anchor, policy = config.teacher, kind_of_source(config.anchor), policy_of(config.rollout)
    is_recorded = reads_record(teacher.record, has_teacher) and uses_teacher(config.reduction.objectives, policy)
    if teacher.kind == "input" and not has_teacher:
        raise ValueError("teacher is 'input', but the node has no input `teacher`")
    if has_teacher and teacher.kind not in ("auto", "input", "random"):
        raise ValueError(
            f"teacher is {teacher.kind!r}, but the node has an input `teacher` too; accepted: auto, input or random"
        )
    if teacher.kind == "pool" and num_pooled < 2:
        raise ValueError(
            f"teacher.kind is 'pool', but the input `teachers` has {num_pooled} models to choose among; accepted: two or more"
        )
    if num_pooled and teacher.kind not in ("pool", "random"):
        raise ValueError(f"teacher.kind is {teacher.kind!r}, but the node has an input `teachers`; accepted: pool")
    if teacher.run_once and not (has_teacher or num_pooled):
        raise ValueError(
            "teacher.run_once is true, but the node has no input `teacher`; accepted: false, or that input"
        )
    if config.compute.vocabulary_sample and is_recorded:
        raise ValueError(
            "compute.vocabulary_sample is for a live teacher, but it is what is recorded, a few candidates; accepted: 0, "
            "or the input `teacher`"
        )
    if anchor == "input" and not has_anchor:
        raise ValueError("anchor is 'input', but the node has no input `anchor`")
    if has_anchor and anchor != "input":
        raise ValueError(f"anchor is {anchor!r}, but the node has an input `anchor`; set anchor to {{kind: input}}")
    if bool(config.fitted) != has_fitted:
        raise ValueError(f"fitted is {config.fitted!r}: the field to replace and the input `fitted` belong together")
    if policy is not None and "teacher" in policy.writers and is_recorded:
        raise ValueError("rollout lets the teacher write, but the teacher is what is recorded; give a live one")
