"""The plan of one training, resolved once from the config and from what the node is given. What runs takes its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from attar.compressors.adapt.catalogue import AdaptMethod
from attar.compressors.distill.examples.rollouts import RolloutPolicy
from attar.compressors.distill.examples.steps import Schedule
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.contexts import ContextBuilder
from attar.compressors.distill.teachers.sources import SelfRule
from attar.registry.artifacts.facts import several
from attar.registry.artifacts.handles import Facts, ModelArtifact
from attar.stages.artifacts.model.folder import QuantizedBase
from attar.stages.finetune.adapt_config import AllWeights, LastBlocks, LowRank
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs, RowsConfig
from attar.stages.finetune.distillation_config import uses_teacher
from attar.stages.finetune.schedule_config import CheckpointConfig, ComputeConfig, HeldoutConfig, schedule_of
from attar.stages.finetune.teacher_config import NO_CONTEXT, has_both_sides, policy_of, rule_of
from attar.stages.runtime.device import pick_device, pick_dtype


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What of the student learns: by which method, from which block on, over a base in how many bits."""

    kind: str
    # of low-rank adapters; 0 where the base's own weights learn
    rank: int
    # of those on routed experts; 0 where they stay
    expert_rank: int
    method: AdaptMethod
    first_block: int
    quantized_base: QuantizedBase


@dataclass(frozen=True, kw_only=True)
class Source:
    """Who stands behind a view of an objective: another model, or the student itself by a rule. Exactly one is given."""

    model: ModelArtifact | None = None
    rule: SelfRule | None = None


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """Who is behind each view that is read, and what the teacher reads that the student does not."""

    # those alone that an objective reads or a rollout lets write; a recorded teacher is none of them
    sources: Mapping[ViewName, Source]
    reads_record: bool
    is_run_once: bool
    # None: what the student reads
    context: ContextBuilder | None
    # learn every row a second time, behind what the teacher reads
    has_both_sides: bool


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All that a training does, before anything is loaded."""

    device: torch.device
    dtype: torch.dtype
    adaptation: Adaptation
    reduction: Reduction
    teaching: Teaching
    # None: the data's own answers
    rollout: RolloutPolicy | None
    rows: RowsConfig
    schedule: Schedule
    average_decay: float
    seed: int
    compute: ComputeConfig
    heldout: HeldoutConfig
    checkpoints: CheckpointConfig

    @staticmethod
    def of(config: FinetuneConfig, inputs: FinetuneInputs) -> TrainingPlan:
        """Return the plan of a config for what the node is given. Raises ValueError when the model's record lacks what it takes."""
        if inputs.fitted is not None:
            config = config.with_fitted(float(inputs.fitted.facts["value"]))
        device, reduction, policy = pick_device(), config.reduction, policy_of(config.rollout)
        reads_record = config.teacher.reads_record(inputs.teacher is not None)
        reads_record = reads_record and uses_teacher(reduction.objectives, policy)
        return TrainingPlan(
            device=device,
            dtype=pick_dtype(config.compute.precision, device),
            adaptation=adaptation_of(config.adapt, inputs.model.facts),
            reduction=reduction,
            teaching=Teaching(
                sources=_sources(config, inputs, reduction, reads_record=reads_record),
                reads_record=reads_record,
                is_run_once=config.teacher.run_once,
                context=None if config.teacher.context == NO_CONTEXT else config.teacher.context,
                has_both_sides=has_both_sides(config.rollout),
            ),
            rollout=policy,
            rows=config.rows,
            schedule=schedule_of(config.schedule, config.compute.tokens_per_micro_batch, device),
            average_decay=config.schedule.average_decay,
            seed=config.schedule.seed,
            compute=config.compute,
            heldout=config.heldout,
            checkpoints=config.checkpoints,
        )


def adaptation_of(adapt: LowRank | AllWeights | LastBlocks, facts: Facts) -> Adaptation:
    """Return what learns. Raises ValueError under after_cut when the model's record does not say where it was cut."""
    first_block = 0 if adapt.blocks == "all" else first_block_after_cut(facts)
    return Adaptation(
        kind=adapt.kind,
        rank=adapt.rank,
        expert_rank=adapt.expert_rank,
        method=adapt.method,
        first_block=first_block,
        quantized_base=adapt.quantized_base,
    )


def first_block_after_cut(facts: Facts) -> int:
    """Return the block before the first removed one, which may hold the patch. Raises ValueError when no removed block is on record."""
    removed = several(facts, "removed_blocks")
    if not removed:
        raise ValueError("adapt.blocks is 'after_cut', but the model's record names no removed block; use 'all'")
    return max(0, min(removed) - 1)


def _sources(
    config: FinetuneConfig, inputs: FinetuneInputs, reduction: Reduction, *, reads_record: bool
) -> dict[ViewName, Source]:
    """Return who stands behind each view that an objective reads or, the teacher's, a rollout lets write."""
    objectives = reduction.objectives
    read = {view for objective in objectives.values() for view in objective.requires.sources} - {"teacher"}
    if not reads_record and uses_teacher(objectives, policy_of(config.rollout)):
        read.add("teacher")
    sources: dict[ViewName, Source] = {
        "teacher": _source(config.teacher.rule, inputs.teacher),
        "past": _source(rule_of(config.past), None),
        "anchor": _source(rule_of(config.anchor), inputs.anchor),
    }
    return {name: source for name, source in sources.items() if name in read and source != Source()}


def _source(rule: SelfRule | None, model: ModelArtifact | None) -> Source:
    return Source(rule=rule) if rule is not None else Source(model=model)
