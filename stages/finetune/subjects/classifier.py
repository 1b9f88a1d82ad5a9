"""Train a classifier of texts or a tagger by the same stage and loop. Texts are its examples, distributions over classes its views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.distill.examples.sentences import Sentence, collated
from attar.compressors.distill.loop.classes import ClassTexts
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, Objective
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.classifier import ClassifierStudent, reading_features
from attar.compressors.distill.teachers.recorded import RecordedOutputs, recorded_classes
from attar.compressors.distill.teachers.subclasses import Split, Subclasses, split_by_chance
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself, TeacherSource
from attar.compressors.encode.classifier import TextClassifier, head_parts, last_layer
from attar.compressors.encode.encoder import length_batches
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Trainable
from attar.registry.artifacts.subjects import CLASSIFIER, Subject
from attar.stages.artifacts.classifier.folder import load_classifier, random_classifier
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.distillation_config import uses_teacher
from attar.stages.finetune.plan import Source, TrainingPlan
from attar.stages.finetune.subjects.encoder import (
    SentenceRows,
    refuse_other_tokens,
    refuse_vectors,
    sentence_parts,
)
from attar.stages.finetune.subjects.examples import assembled
from attar.stages.finetune.subjects.labelled_texts import examples_of_rows, reads_labels, refuse_unlabelled
from attar.stages.finetune.subjects.limits import refuse_language_settings, refuse_no_teacher
from attar.stages.finetune.subjects.pools import Pooled
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import bar, note

ACCEPTED = "labels, forward_kl, or an objective of a divergence between distributions"


def check_classifier_training(config: FinetuneConfig, *, has_teacher: bool, subject: Subject = CLASSIFIER) -> None:
    """Raise ValueError for what is asked of a training that a classifier's, or a tagger's, has not."""
    objectives = config.reduction.objectives
    for name, objective in objectives.items():
        requires = objective.requires
        if (
            requires.views != DISTRIBUTIONS
            or requires.projections
            or requires.facts - {"labels"}
            or objective == NextToken()
        ):
            what = "a next token" if objective == NextToken() else f"{requires.views} of a language model"
            raise ValueError(f"objectives.{name} reads {what}, and the model is {subject.words}; accepted: {ACCEPTED}")
        if config.teacher.split is not None and reads_labels(objective):
            raise ValueError(
                f"objectives.{name} reads labels, which do not tell subclasses, but teacher.split splits every class; accepted: objectives toward "
                "the teacher"
            )
    if uses_teacher(objectives, None):
        refuse_no_teacher(config, subject, has_teacher=has_teacher)
    if config.teacher.split is not None and not config.teacher.run_once:
        raise ValueError(
            "teacher.split is fitted on what the teacher makes of every text, but teacher.run_once is false; accepted: true"
        )
    refuse_language_settings(config, subject)


def reads_grades(config: FinetuneConfig, model: Facts) -> bool:
    """Say whether the teacher of a scorer of pairs is what the rows' similarities say."""
    return bool(model.get("reads_pairs")) and config.teacher.kind in ("auto", "recorded")


def refuse_other_views(objectives: Mapping[str, Objective]) -> None:
    """Raise ValueError for an objective that reads vectors of texts or classes of rows. A causal model gives neither."""
    refuse_vectors(objectives)
    for name, objective in objectives.items():
        if "labels" in objective.requires.facts:
            raise ValueError(
                f"objectives.{name} reads the class of each row, and the model is a causal language model; accepted: a classifier or tagger, or "
                "next_token"
            )


def build_classifier_run(plan: TrainingPlan, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: student, teacher and texts in place."""
    model: Any = inputs.model
    rows = SentenceRows.read(inputs.data, sentence_parts(examples_of_rows(model, plan)))
    refuse_unlabelled(rows.train, plan, model)
    classifier = load_classifier(inputs.model.path, plan.dtype, plan.device)
    plan.adaptation.method(classifier.model, plan.adaptation.first_block)
    for part in head_parts(classifier.model):  # it may be fresh: frozen, the blocks would have to learn around it
        part.to(torch.float32).requires_grad_(True)
    split, pool = plan.teaching.split, _pooled(plan, inputs, rows)
    student = ClassifierStudent(classifier, tells_subclasses=split is not None)
    student = pool.with_heads(student, last_layer(classifier.model))
    teacher_sources: dict[ViewName, TeacherSource] = {
        "teacher": RecordedOutputs(recorded_classes)
    }  # the grades of pairs
    if not (model.facts.reads_pairs and plan.teaching.reads_record):
        teacher_sources, rows = _teacher_sources(plan, inputs, student, pool.rows, classifier.num_subclasses)
    sources = teacher_sources | pool.sources(recorded_classes)
    return assembled(pool.planned(plan), student, rows, ClassTexts(pool.widths), sources, workdir)


def _pooled(plan: TrainingPlan, inputs: FinetuneInputs, rows: SentenceRows) -> Pooled:
    """Return the texts with the classes that a pool's teachers tell, weighed by how well their features tell the data's own."""

    def read(model: Trainable, name: str, sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
        teacher = _other(plan, inputs, Source(model=model), name)
        logits, features = _logits_and_features(teacher, sentences, plan.schedule.tokens_per_micro_batch, name)
        return torch.cat(logits), torch.stack(features)

    return Pooled.of_classes(plan.teaching.pool, inputs.teachers, rows, read)


def _teacher_sources(
    plan: TrainingPlan, inputs: FinetuneInputs, student: Any, rows: SentenceRows, num_subclasses: int
) -> tuple[dict[ViewName, TeacherSource], SentenceRows]:
    """Return who speaks beside the student, and the texts with the teacher's classes where it is run once.

    Raises ValueError for a teacher that cuts the same texts into other tokens.
    """
    sources: dict[ViewName, TeacherSource] = {}
    for name, source in plan.teaching.sources.items():
        if source.rule is not None:
            sources[name] = StudentItself(source.rule).begin(student)
            continue
        other = _other(plan, inputs, source, name)
        if name == "teacher" and plan.teaching.is_run_once:
            rows = _with_classes(rows, other, plan.schedule.tokens_per_micro_batch, plan.teaching.split, num_subclasses)
            sources[name] = RecordedOutputs(recorded_classes)
        else:
            sources[name] = OtherModel(ClassifierStudent(other).eval())
    return sources, rows


def _other(plan: TrainingPlan, inputs: FinetuneInputs, source: Source, name: str) -> TextClassifier:
    """Return a model that speaks beside the student; one of random weights has the shape of the student where none is given."""
    at = source.model.path if source.model is not None else inputs.model.path
    refuse_other_tokens(inputs.model.path, at, name)
    other = load_classifier(at, plan.dtype, plan.device)
    if source.random_seed is not None:
        other = random_classifier(other, source.random_seed)
    return other.requires_grad_(False).eval()


def _with_classes(
    rows: SentenceRows, teacher: TextClassifier, tokens_per_batch: int, split: Split | None, num_subclasses: int
) -> SentenceRows:
    """Run the teacher once over every text, and give each its logits; under a split those of the subclasses that its features suggest."""
    every = [*rows.train, *rows.heldout]
    logits, features = _logits_and_features(teacher, every, tokens_per_batch, "the teacher")
    if split is not None:
        split_up = _split(split, torch.cat(logits), torch.stack(features), len(rows.train), teacher, num_subclasses)
        logits = [row[None] for row in split_up]
    # of a text one row, of a text whose words are tagged a row a word
    every = [
        replace(sentence, teacher=own if sentence.positions else own[0])
        for sentence, own in zip(every, logits, strict=True)
    ]
    return replace(rows, train=every[: len(rows.train)], heldout=every[len(rows.train) :])


@torch.no_grad()
def _logits_and_features(
    teacher: TextClassifier, sentences: Sequence[Sentence], tokens_per_batch: int, name: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Return a teacher's logits of each text, a row a position, and what its last layer reads of it, which of words nobody asks."""
    counter = bar(f"running {name}", len(sentences), "texts")
    logits: list[Tensor] = [torch.empty(0)] * len(sentences)
    features: list[Tensor] = [torch.empty(0)] * len(sentences)
    speaker = ClassifierStudent(teacher).eval()
    with reading_features(last_layer(teacher.model)) as read:
        for chosen in length_batches([sentence.ids for sentence in sentences], tokens_per_batch):
            batch = collated([sentences[index] for index in chosen])
            made = speaker(batch).float().cpu().split([len(sentences[index].labels) for index in chosen])
            own = read.pop().float().cpu()
            for row, index in enumerate(chosen):
                logits[index] = made[row].clone()
                features[index] = own[row].clone() if batch.words is None else features[index]
            counter.advance(len(chosen))
    return logits, features


def _split(
    split: Split, logits: Tensor, features: Tensor, num_train: int, teacher: TextClassifier, num_subclasses: int
) -> Tensor:
    """Return the subclasses' log-probabilities, by directions that training texts alone suggest."""
    if split.by == "chance":
        return split_by_chance(logits, num_subclasses, split.seed)
    if teacher.num_subclasses > 1:
        raise ValueError(
            "teacher.split: the teacher's own classes are split already; accepted: a teacher of one output a class"
        )
    weight = last_layer(teacher.model).weight.float().cpu()
    classes = logits.argmax(dim=-1)
    fitted = Subclasses.fit(
        features[:num_train], classes[:num_train], weight, num_subclasses, split.temperature, split.seed
    )
    counts = torch.bincount(classes[:num_train], minlength=len(weight))
    note(
        f"each class is split into {num_subclasses}, by the features of {int(counts.min())} to {int(counts.max())} texts a class"
    )
    return fitted.split(logits, features)
