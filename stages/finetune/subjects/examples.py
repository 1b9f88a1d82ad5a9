"""What trainings of models that do not write share. Their examples are read once, and the run is put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.trainer import Trainer, accelerator_on
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.teacher_sources import TeacherSource
from attar.compressors.models.trained_weights import WeightAverage, trained_weights
from attar.stages.artifacts.dataset.partition import shared_rows_note
from attar.stages.artifacts.dataset.rows import Row, Split
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.training_rows import Mixture
from attar.stages.finetune.training_run import TrainingRun, freeze_named
from attar.stages.runtime.progress import note

E = TypeVar("E")
# The examples of a part of a data set, each with the id of its row; None where the data set has no such part.
PartOf = Callable[[Split], "Sequence[tuple[str, E]] | None"]


@dataclass(frozen=True)
class ExampleRows(Generic[E]):
    """Examples to learn and to evaluate; `sources[i]` and `ids[i]` say which data set and row `train[i]` came from."""

    train: list[E] = field(default_factory=list)
    heldout: list[E] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    evaluated_parts: list[Split] = field(default_factory=list)
    # such a model answers no question: none is checked
    heldout_rows: Sequence[Row] = ()

    @staticmethod
    def read(datasets: Sequence[Any], parts_of: Callable[[Any, str], PartOf[E]], what: str = "rows") -> ExampleRows[E]:
        """Read every data set once, by what `parts_of` makes of it and its name. Raises ValueError when nothing is left to train on."""
        read: ExampleRows[E] = ExampleRows()
        for source, data in enumerate(datasets):
            name = data.facts.name or f"data {source + 1}"
            part_of = parts_of(data, name)
            for row_id, example in part_of("train") or ():
                read.train.append(example)
                read.sources.append(source)
                read.ids.append(row_id)
            part: Split = "choose"
            evaluated = part_of(part)
            if evaluated is None:
                part = "heldout"
                evaluated = part_of(part)
            if evaluated is not None:
                read.heldout.extend(example for _, example in evaluated)
                read.evaluated_parts.append(part)
                if part == "heldout":
                    note(shared_rows_note(name, "decide which state is kept"))
        if not read.train:
            raise ValueError(f"the data has no training {what}")
        return read


def assembled(
    plan: TrainingPlan,
    student: Any,
    rows: ExampleRows[Any],
    modality: Any,
    teacher_sources: dict[ViewName, TeacherSource],
    workdir: Path,
    rollouts: Any = None,
) -> TrainingRun:
    """Return the training of a student on examples of a modality, before its first step."""
    if plan.adaptation.freeze:
        freeze_named(student.model, plan.adaptation.freeze)
    trainer = Trainer(
        student,
        rows.train,
        Steps(Mixture(rows.train, rows.sources, plan.rows.shares, plan.seed), rows.train, plan.schedule),
        plan.reduction,
        modality,
        accelerator_on(plan.device),
        teacher_sources=teacher_sources,
        rollouts=rollouts,
        average=WeightAverage(plan.average_decay, trained_weights(student)) if plan.average_decay else None,
    )
    return TrainingRun(
        trainer,
        rows,
        None,
        workdir,
        heldout=plan.heldout,
        checkpoints=plan.checkpoints,
        max_minutes=plan.max_minutes,
    )
