"""Weigh a pool of teachers on the target's own examples, and run those that count once over all of them. Whatever they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attar.compressors.distill.heads.views import ANSWERS
from attar.compressors.distill.loop.copies import copied, teacher_name
from attar.compressors.distill.losses.classes import UNLABELLED
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.pool import PoolRule, PoolStudent
from attar.compressors.distill.teachers.recorded import RecordedOutputs
from attar.compressors.distill.teachers.teacher_sources import TeacherSource
from attar.compressors.measure.ranking import SIMILARITIES
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Trainable
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, IMAGES, subject_of
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.subjects.examples import ExampleRows
from attar.stages.runtime.progress import metric, note


class ReadBy(Protocol):
    """Runs a teacher, called `name`, over examples: what it says of each, a row, and its features, a row."""

    def __call__(self, model: Trainable, name: str, examples: Sequence[Any], /) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Pooled:
    """Examples with what a pool's teachers say of them, each one's weight and width by its name. Without a pool the examples alone."""

    rows: ExampleRows[Any]
    shares: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(
        rule: PoolRule | None,
        teachers: Sequence[Trainable],
        rows: ExampleRows[Any],
        read: ReadBy,
        annotations: Callable[[Sequence[int]], Tensor],
        annotated: Sequence[int],
    ) -> Pooled:
        """Weigh the teachers by `annotations` of some `annotated` training examples, by index, and run those that count.

        Raises ValueError where fewer than two are, and for a teacher that cannot read them.
        """
        if rule is None:
            return Pooled(rows)
        chosen = _evenly(rows, annotated, rule.num_samples)
        if len(chosen) < 2:
            raise ValueError(
                f"teacher.kind is 'pool', but {len(chosen)} training examples have a class or another text of their pair to weigh it by; "
                "accepted: two or more"
            )
        known, examples = annotations(chosen), [rows.train[index] for index in chosen]
        named = {teacher_name(number): teacher for number, teacher in enumerate(teachers, start=1)}
        similar = SIMILARITIES[rule.similarity]
        similarities = [similar(read(teacher, name, examples)[1], known) for name, teacher in named.items()]
        shares = dict(zip(named, rule.weights(similarities), strict=True))
        for (name, share), similarity in zip(shares.items(), similarities, strict=True):
            metric(f"similarity_{name}", similarity)
            metric(f"weight_{name}", share)
            note(f"{name}: {rule.similarity} {similarity:.3f} on {len(chosen)} examples, weight {share:.3f}")
        every = [*rows.train, *rows.heldout]
        made = {name: read(named[name], name, every)[0] for name, share in shares.items() if share}
        joined = torch.cat(list(made.values()), dim=-1)
        taught = [replace(example, teacher=row.clone()) for example, row in zip(every, joined, strict=True)]
        taught_rows = replace(rows, train=taught[: len(rows.train)], heldout=taught[len(rows.train) :])
        return Pooled(taught_rows, shares, {name: some.shape[-1] for name, some in made.items()})

    @staticmethod
    def of_classes(
        rule: PoolRule | None, teachers: Sequence[Trainable], rows: ExampleRows[Any], read: ReadBy
    ) -> Pooled:
        """Weigh the teachers by which training examples are of one class, those that have one, as `of` does."""
        labels = [example.label for example in rows.train]
        labelled = [index for index, label in enumerate(labels) if label != UNLABELLED]
        return Pooled.of(
            rule, teachers, rows, read, lambda some: same_class([labels[index] for index in some]), labelled
        )

    def with_heads(self, student: Any, layer: nn.Linear) -> Any:
        """Return a classifier with a head for each teacher, beside its own last layer; without a pool as it is."""
        return PoolStudent(student, layer, [*self.widths.values()]) if self.widths else student

    def planned(self, plan: TrainingPlan) -> TrainingPlan:
        """Return the plan with every objective toward the teacher once for each, by its weight."""
        if not self.shares:
            return plan
        return replace(plan, reduction=copied(plan.reduction, self.shares, _reads_teacher))

    def sources(self, recorded: Callable[..., Any]) -> dict[ViewName, TeacherSource]:
        """Return the pool as a teacher that was run once; none without a pool."""
        return {"teacher": RecordedOutputs(recorded)} if self.shares else {}


def check_pool(config: FinetuneConfig, model: Facts) -> None:
    """Raise ValueError for a model that learns from no pool, and an objective that reads more than one gives."""
    if config.teacher.kind != "pool":
        return
    if (subject := subject_of(model)) not in (ENCODER, CLASSIFIER, IMAGES) or model.get("reads_pairs"):
        what = "a scorer of pairs" if model.get("reads_pairs") else subject.words
        raise ValueError(
            f"teacher.kind is 'pool', but the model is {what}; accepted: an encoder, a classifier or an image classifier"
        )
    objectives = config.reduction.objectives
    if not any(map(_reads_teacher, objectives.values())):
        raise ValueError(
            f"teacher.kind is 'pool', but no objective reads a teacher; objectives are {', '.join(objectives)}"
        )
    for name, objective in objectives.items():
        requires = objective.requires
        if requires.views == ANSWERS:
            raise ValueError(
                f"objectives.{name} brings heads of its own; accepted with a pool: labels, and losses toward a teacher"
            )
        if _reads_teacher(objective) and (requires.sources != {"teacher"} or requires.projections or requires.means):
            raise ValueError(
                f"objectives.{name} reads more than what each teacher of a pool says; accepted: a distance or divergence toward the teacher "
                "alone, without weights of mean one"
            )


def same_class(labels: Sequence[int]) -> Tensor:
    """Return 1 where two examples are of one class, else 0."""
    column = torch.tensor(labels)
    return (column[:, None] == column[None]).double()


def _reads_teacher(objective: Objective[Any, Any]) -> bool:
    return "teacher" in objective.requires.sources


def _evenly(rows: ExampleRows[Any], annotated: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the annotated examples, whole rows of the data throughout it."""
    by_row: dict[tuple[int, str], list[int]] = {}
    for index in annotated:
        by_row.setdefault((rows.sources[index], rows.ids[index]), []).append(index)
    step = max(1, -(-len(annotated) // count))
    return [index for row in list(by_row.values())[::step] for index in row]
