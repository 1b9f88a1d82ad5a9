"""The plan of one training, resolved once from the config and from what the node is given. What runs takes its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from attar.compressors.adapt.catalogue import AdaptMethod
from attar.compressors.distill.examples.rollouts import RolloutPolicy
from attar.compressors.distill.examples.steps import Schedule
from attar.compressors.distill.loop.copies import at_exits
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.contexts import ContextBuilder
from attar.compressors.distill.teachers.pool import PoolRule
from attar.compressors.distill.teachers.sources import SelfRule
from attar.compressors.distill.teachers.subclasses import Split
from attar.compressors.elastic.space import ElasticRule
from attar.compressors.images.augment import Augmentation
from attar.compressors.masked.hiding import Masking
from attar.registry.artifacts.facts import several
from attar.registry.artifacts.handles import Trainable
from attar.registry.artifacts.kinds.classifier_facts import ClassifierFacts, ImageClassifierFacts
from attar.registry.artifacts.kinds.encoder_facts import DenoiserFacts, EncoderFacts
from attar.registry.artifacts.kinds.kind_facts import ModelFacts
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.model.folder import QuantizedBase
from attar.stages.finetune.adapt_config import AdaptKind, BeforePrompt, learned_by
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.distillation_config import uses_teacher
from attar.stages.finetune.schedule_config import (
    CheckpointConfig,
    HeldoutConfig,
    Learned,
    ScheduleConfig,
    StopOn,
    augmentations_of,
)
from attar.stages.finetune.teacher_config import NO_CONTEXT, Teacher, has_both_sides, policy_of, reads_record, rule_of
from attar.stages.runtime.device import pick_device, pick_dtype

AnyModelFacts = ModelFacts | EncoderFacts | ClassifierFacts | ImageClassifierFacts | DenoiserFacts
# Tokens in one forward and backward pass where none are asked for.
CPU_MICRO_BATCH, ACCELERATOR_MICRO_BATCH = 512, 4096


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What of the student learns: by which method, from which block on, over a base in how many bits."""

    kind: str
    rank: int  # of low-rank adapters; 0 where the base's own weights learn
    expert_rank: int  # of those on routed experts; 0 where they stay
    freeze: tuple[str, ...]  # patterns of the names of tensors that stay
    method: AdaptMethod
    first_block: int
    quantized_base: QuantizedBase
    before_prompt: BeforePrompt | None = None  # vectors, where they learn
    exits: tuple[int, ...] = ()  # of an encoder: after how many blocks its vector is learned; none: after the last
    elastic: ElasticRule | None = None  # sub-networks, where they learn
    masking: Masking | None = None  # of a student that learns to fill masks


@dataclass(frozen=True, kw_only=True)
class Source:
    """Who stands behind a view of an objective: another model, or the student itself by a rule.

    With `random_seed` a model of random weights: of the other model's shape, or of the student's where none is given.
    """

    model: Trainable | None = None
    rule: SelfRule | None = None
    random_seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """Who is behind each view that is read, and what the teacher reads that the student does not."""

    sources: Mapping[ViewName, Source]  # those alone that an objective reads or a rollout lets write; none is recorded
    reads_record: bool
    is_run_once: bool
    split: Split | None  # of a classifier: how the teacher's classes are split; None: they are not
    pool: PoolRule | None  # of several teachers: how they are weighed
    context: ContextBuilder | None  # None: what the student reads
    has_both_sides: bool  # learn every row a second time, behind what the teacher reads


@dataclass(frozen=True, kw_only=True)
class LearnedRows:
    """Which tokens of the data are learned, and where a row is cut. `shares`: of the tokens, by data set; empty: all of each."""

    learn: Learned
    max_tokens: int
    shares: tuple[float, ...]
    augment: tuple[Augmentation, ...] = ()  # how images are changed
    classes: frozenset[int] = frozenset()  # of a denoiser: those that it learns; empty: all


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How the forward and backward passes of a step are computed. `vocabulary_sample`: entries that are compared; 0: all."""

    is_packed: bool
    gradient_checkpointing: bool
    vocabulary_sample: int
    num_shards: int = 1  # processes that hold a part of the blocks each


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """When the held-out rows are evaluated, by what, and after how many without a better one training stops; 0: never."""

    every: int
    stop_on: StopOn
    patience: int


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """After how many steps (0: by time alone) and minutes all that is needed to continue is written."""

    every: int
    minutes: float


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All that a training does, before anything is loaded. It holds no config: what a user wrote is read once, in `of`."""

    device: torch.device
    dtype: torch.dtype
    adaptation: Adaptation
    reduction: Reduction
    teaching: Teaching
    rollout: RolloutPolicy | None  # None: the data's own answers
    rows: LearnedRows
    schedule: Schedule
    average_decay: float
    max_minutes: float
    seed: int
    passes: Passes
    heldout: Evaluations
    checkpoints: Checkpoints

    @staticmethod
    def of(config: FinetuneConfig, inputs: FinetuneInputs) -> TrainingPlan:
        """Return the plan of a config for what the node is given. Raises ValueError when the model's record lacks what it takes."""
        if inputs.fitted is not None:
            config = config.with_fitted(inputs.fitted.facts.value)
        device, reduction, policy = pick_device(), config.reduction, policy_of(config.rollout)
        is_recorded = reads_record(config.teacher.record, inputs.teacher is not None)
        is_recorded = is_recorded and uses_teacher(reduction.objectives, policy)
        learned, compute, masks = config.rows, config.compute, config.rows.masks
        return TrainingPlan(
            device=device,
            dtype=pick_dtype("float32" if inputs.model.subject is IMAGES else config.compute.precision, device),
            adaptation=adaptation_of(config.adapt, inputs.model.facts, masks and Masking(**dict(masks))),
            reduction=at_exits(reduction, config.adapt.exits),
            teaching=Teaching(
                sources=_sources(config, inputs, reduction, reads_record=is_recorded),
                reads_record=is_recorded,
                is_run_once=config.teacher.run_once,
                split=_split(config.teacher),
                pool=_pool(config.teacher),
                context=None if config.teacher.context == NO_CONTEXT else config.teacher.context,
                has_both_sides=has_both_sides(config.rollout),
            ),
            rollout=policy,
            rows=LearnedRows(
                learn=learned.learn,
                max_tokens=learned.max_tokens,
                shares=tuple(learned.shares),
                augment=augmentations_of(learned.augment),
                classes=frozenset(learned.classes),
            ),
            schedule=schedule_of(config.schedule, compute.tokens_per_micro_batch, device),
            average_decay=config.schedule.average_decay,
            max_minutes=config.schedule.max_minutes,
            seed=config.schedule.seed,
            passes=Passes(**{name: getattr(compute, name) for name in Passes.__dataclass_fields__}),
            heldout=evaluations_of(config.heldout),
            checkpoints=checkpoints_of(config.checkpoints),
        )


def schedule_of(config: ScheduleConfig, tokens_per_micro_batch: int, device: torch.device) -> Schedule:
    """Return how long training lasts and how fast it moves, with micro-batches that suit the device where none are given."""
    fitting = CPU_MICRO_BATCH if device.type == "cpu" else ACCELERATOR_MICRO_BATCH
    settings = {
        name: getattr(config, name) for name in Schedule.__dataclass_fields__ if name != "tokens_per_micro_batch"
    }
    return Schedule(**settings, tokens_per_micro_batch=tokens_per_micro_batch or fitting)


def evaluations_of(config: HeldoutConfig) -> Evaluations:
    """Return when and by what held-out rows are evaluated."""
    return Evaluations(every=config.every, stop_on=config.stop_on, patience=config.patience)


def checkpoints_of(config: CheckpointConfig) -> Checkpoints:
    """Return when checkpoints are written."""
    return Checkpoints(every=config.every, minutes=config.minutes)


def adaptation_of(adapt: AdaptKind, facts: AnyModelFacts, masking: Masking | None = None) -> Adaptation:
    """Return what learns. Raises ValueError under after_cut when the model's record does not say where it was cut."""
    method, before_prompt = learned_by(adapt)
    return Adaptation(
        **{name: getattr(adapt, name) for name in ("kind", "rank", "expert_rank", "quantized_base", "exits")},
        freeze=tuple(getattr(adapt, "freeze", ())),  # of weights that learn whole
        method=method,
        first_block=0 if adapt.blocks == "all" else first_block_after_cut(facts),
        before_prompt=before_prompt,
        elastic=getattr(adapt, "rule", None),
        masking=masking,
    )


def first_block_after_cut(facts: AnyModelFacts) -> int:
    """Return the block before the first removed one, which may hold the patch. Raises ValueError when no removed block is on record."""
    removed = several(facts, "removed_blocks")
    if not removed:
        raise ValueError("adapt.blocks is 'after_cut', but the model's record names no removed block; use 'all'")
    return max(0, min(removed) - 1)


def _split(teacher: Teacher) -> Split | None:
    split = teacher.split
    return None if split is None else Split(by=split.by, temperature=split.temperature, seed=split.seed)


def _pool(teacher: Teacher) -> PoolRule | None:
    if teacher.kind != "pool":
        return None
    return PoolRule(**{name: getattr(teacher, name) for name in PoolRule.__dataclass_fields__})


def _sources(
    config: FinetuneConfig, inputs: FinetuneInputs, reduction: Reduction, *, reads_record: bool
) -> dict[ViewName, Source]:
    """Return who stands behind each view that an objective reads or, the teacher's, a rollout lets write."""
    objectives = reduction.objectives
    read = {view for objective in objectives.values() for view in objective.requires.sources} - {"teacher"}
    if not reads_record and uses_teacher(objectives, policy_of(config.rollout)):
        read.add("teacher")
    sources: dict[ViewName, Source] = {
        "teacher": _source(config.teacher.rule, inputs.teacher, config.teacher.seed),
        "past": _source(rule_of(config.past), None),
        "anchor": _source(rule_of(config.anchor), inputs.anchor),
    }
    return {name: source for name, source in sources.items() if name in read and source != Source()}


def _source(rule: SelfRule | None, model: Trainable | None, seed: int | None = None) -> Source:
    return Source(rule=rule) if rule is not None else Source(model=model, random_seed=seed)
