"""Who teaches: another model, what is recorded in the data, or the student itself by a rule. What it reads that the student does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from attar.compressors.distill.examples.rollouts import ROLLOUTS, RolloutPolicy
from attar.compressors.distill.teachers.contexts import CONTEXTS, ContextBuilder
from attar.compressors.distill.teachers.sources import SELF_RULES, SelfRule
from attar.stages.contract import StageConfig, default_kind
from attar.stages.runtime.method_field import MethodField
from attar.stages.runtime.older_fields import NOTHING, kind_of

Context = Annotated[ContextBuilder, MethodField(CONTEXTS, "teacher context", "none")]
NO_CONTEXT = CONTEXTS["none"]()
# When a teacher is the one recorded in the data.
Record = Literal["always", "without_input", "never"]


@dataclass(frozen=True, kw_only=True)
class NoSource:
    """Nobody: no objective reads it."""


@dataclass(frozen=True, kw_only=True)
class InputModel:
    """The model that the node is given as an input of that name."""


@dataclass(frozen=True, kw_only=True)
class DataWrites:
    """The data's own answers. With `both_sides` each is learned twice: behind the plain prompt, and behind what the teacher reads.

    The first time is route `plain`, the second `hinted`. The teacher's context must not depend on the answer.
    """

    both_sides: bool = False


# Every kind of source beside the models that are given: `past` knows no input.
PAST_SOURCES: dict[str, type[Any]] = {"none": NoSource, **SELF_RULES}
ANCHOR_SOURCES: dict[str, type[Any]] = {**PAST_SOURCES, "input": InputModel}
Rule = Annotated[SelfRule, MethodField(SELF_RULES, "rule")]
Past = Annotated[SelfRule | NoSource, MethodField(PAST_SOURCES, "past", "none")]
ANCHOR = MethodField(ANCHOR_SOURCES, "anchor", "none")
Anchor = Annotated[SelfRule | NoSource | InputModel, ANCHOR]
Rollout = Annotated[RolloutPolicy | DataWrites, MethodField({"data": DataWrites, **ROLLOUTS}, "rollout", "data")]


class SubclassSplit(StageConfig):
    """How a teacher's classes are split into as many as the student has outputs a class. https://arxiv.org/abs/2409.20449"""

    by: Literal["directions", "chance"] = "directions"
    """directions: principal ones of the teacher's features within a class, off those that tell classes apart. chance: the control."""

    temperature: float = Field(default=1.0, gt=0)
    """Of the softmax over a class's coordinates, whose mean variance is 1: above 1 softer."""

    seed: int = Field(default=0, ge=0)
    """What the rotation of the directions, or chance, is drawn with."""


class AutoTeacher(StageConfig):
    """The input `teacher` where it is given, else what is recorded in the data."""

    kind: Literal["auto"] = "auto"
    """The input `teacher` where it is given, else what is recorded in the data."""

    context: Context = NO_CONTEXT
    """What a live teacher reads that the student does not: reference, own_answer, sibling, demonstrations, skill; none."""

    run_once: bool = False
    """Run the input `teacher` once over all examples and keep its last states (2 bytes x hidden size a token in bf16), not at every step:
    its whole distribution at the price of its head. For given answers, and losses that read no states within it."""

    split: ClassVar[SubclassSplit | None] = None
    rule: ClassVar[SelfRule | None] = None
    seed: ClassVar[int | None] = None
    record: ClassVar[Record] = "without_input"


class RecordedTeacher(StageConfig):
    """The teacher recorded in the data, by stage `record`, `self_data` or `guide_data`."""

    kind: Literal["recorded"]
    """What is recorded in the data."""

    split: ClassVar[SubclassSplit | None] = None
    rule: ClassVar[SelfRule | None] = None
    context: ClassVar[ContextBuilder] = NO_CONTEXT
    run_once: ClassVar[bool] = False
    seed: ClassVar[int | None] = None
    record: ClassVar[Record] = "always"


class InputTeacher(StageConfig):
    """The input `teacher`."""

    kind: Literal["input"]
    """The input `teacher`."""

    context: Context = NO_CONTEXT
    """What it reads that the student does not, as under auto."""

    run_once: bool = False
    """Run it once over all examples and keep its last states, as under auto."""

    split: SubclassSplit | None = None
    """Of classifiers: teach a student of several outputs a class what the teacher's classes hide, {by: directions}. null: classes alone."""

    rule: ClassVar[SelfRule | None] = None
    seed: ClassVar[int | None] = None
    record: ClassVar[Record] = "never"


class SelfTeacher(StageConfig):
    """The student itself, by a rule."""

    kind: Literal["self"]
    """The student itself."""

    rule: Rule
    """Which student: base (adapters off), live, start, ema, previous_epoch, generation."""

    context: Context = NO_CONTEXT
    """What it reads that the student does not, as under auto."""

    split: ClassVar[SubclassSplit | None] = None
    run_once: ClassVar[bool] = False
    seed: ClassVar[int | None] = None
    record: ClassVar[Record] = "never"


class RandomTeacher(StageConfig):
    """A model with random weights, which knows nothing: the control that a distillation must beat. https://arxiv.org/abs/2302.12091

    Of the shape of the input `teacher` where it is given, else of the student's.
    """

    kind: Literal["random"]
    """Random weights, which stay as they are."""

    seed: int = Field(default=0, ge=0)
    """What the weights are drawn with."""

    context: Context = NO_CONTEXT
    """What it reads that the student does not, as under auto."""

    split: ClassVar[SubclassSplit | None] = None
    rule: ClassVar[SelfRule | None] = None
    run_once: ClassVar[bool] = False
    record: ClassVar[Record] = "never"


class PoolTeacher(StageConfig):
    """The input `teachers`, two or more. Each run once, by how alike its features are to the target. https://arxiv.org/abs/2304.12314"""

    kind: Literal["pool"]
    """The input `teachers`, weighed by how alike their features are to the classes or pairs of the training rows."""

    similarity: Literal["cka", "parc"] = "cka"
    """How alike: centered kernel alignment (https://arxiv.org/abs/1905.00414), or rank correlation of distances (https://arxiv.org/abs/2111.06977)."""

    power: float | None = Field(default=9.0, ge=0)
    """A teacher's weight is its similarity to this power, as a share of all; 0: all alike. null: the nearest alone."""

    num_samples: int = Field(default=512, ge=2)
    """Training examples that they are compared on, at most about so many."""

    context: ClassVar[ContextBuilder] = NO_CONTEXT
    split: ClassVar[SubclassSplit | None] = None
    rule: ClassVar[SelfRule | None] = None
    run_once: ClassVar[bool] = True
    seed: ClassVar[int | None] = None
    record: ClassVar[Record] = "never"


Teacher = Annotated[
    AutoTeacher | RecordedTeacher | InputTeacher | SelfTeacher | RandomTeacher | PoolTeacher,
    Field(discriminator="kind"),
    default_kind("auto"),
]


def reads_record(record: Record, has_input: bool) -> bool:
    """Say whether the teacher is the one recorded in the data, where the input `teacher` is given or not."""
    return record == "always" or (record == "without_input" and not has_input)


def rule_of(source: SelfRule | NoSource | InputModel | None) -> SelfRule | None:
    """Return the rule of a student that teaches itself, or None for another source."""
    return None if source is None or isinstance(source, NoSource | InputModel) else source


def kind_of_source(source: SelfRule | NoSource | InputModel) -> str:
    """Return the name of a source: input, none, or that of a rule."""
    return ANCHOR.kind(source)


def policy_of(rollout: RolloutPolicy | DataWrites) -> RolloutPolicy | None:
    """Return who writes anew at every step, or None for the data."""
    return None if isinstance(rollout, DataWrites) else rollout


def has_both_sides(rollout: RolloutPolicy | DataWrites) -> bool:
    """Say whether the data's answers are learned twice: behind the plain prompt, and behind what the teacher reads."""
    return isinstance(rollout, DataWrites) and rollout.both_sides


def flat_teacher(value: Any) -> Any:
    """Return the teacher of the flat form, `live` or `{ema: {decay: 0.99}}`, in the form of today."""
    spelt = kind_of(value)
    if spelt is NOTHING or spelt["kind"] in ("context", "rule"):  # a part of today's form
        return NOTHING
    return {"kind": "self", "rule": spelt} if spelt["kind"] in SELF_RULES else spelt
