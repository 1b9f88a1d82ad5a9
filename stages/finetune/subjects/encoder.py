"""Train a sentence encoder by the same stage and loop. Texts are its examples, vectors its views, another encoder its teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.distill.examples.sentences import Sentence
from attar.compressors.distill.loop.sentences import SentenceTexts
from attar.compressors.distill.losses.divergences.hidden import QUERY_KEY_VALUE
from attar.compressors.distill.losses.embeddings.catalogue import EMBEDDING_LOSSES
from attar.compressors.distill.losses.embeddings.views import EMBEDDINGS
from attar.compressors.distill.losses.objective import Objective, projections_read
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.encoder import EncoderStudent, recorded_vectors
from attar.compressors.distill.teachers.recorded import RecordedOutputs
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself, TeacherSource
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.encode.encoder import SentenceEncoder, encoded, length_batches
from attar.compressors.encode.latent_tokens import train_latent_rows
from attar.compressors.models.slots import pad_right
from attar.registry.artifacts.handles import DatasetArtifact, Trainable
from attar.registry.artifacts.subjects import ENCODER
from attar.stages.artifacts.dataset.rows import Row, Split, read_rows, split_rows
from attar.stages.artifacts.encoder.exits import check_exits
from attar.stages.artifacts.encoder.folder import form_of, load_encoder
from attar.stages.artifacts.encoder.texts import TextReader, prompted, texts_of
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.subjects.elastic import elastic_training
from attar.stages.finetune.subjects.examples import ExampleRows, PartOf, assembled
from attar.stages.finetune.subjects.limits import refuse_language_settings, refuse_no_teacher
from attar.stages.finetune.subjects.pools import Pooled, same_class
from attar.stages.finetune.subjects.reasoned import ReasonedReader, check_latent_tokens
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import bar


def check_encoder_training(config: FinetuneConfig, *, has_teacher: bool) -> None:
    """Raise ValueError for what is asked of a training that an encoder's has not."""
    paired = {name: "pairs" in objective.requires.facts for name, objective in config.reduction.objectives.items()}
    if any(paired.values()) and not all(paired.values()):
        other = next(name for name, is_paired in paired.items() if not is_paired)
        raise ValueError(
            f"objectives.{other} reads single texts, and the other objectives pairs; accepted: pair_distance, pair_contrast and reasoned_* "
            "alone, or none of them"
        )
    if not any(paired.values()):
        refuse_no_teacher(config, ENCODER, has_teacher=has_teacher)
    for name, objective in config.reduction.objectives.items():
        if objective.requires.views != EMBEDDINGS:
            raise ValueError(
                f"objectives.{name} reads {objective.requires.views} of a causal language model, and the model is an encoder; "
                f"accepted: {', '.join(EMBEDDING_LOSSES)}"
            )
        if config.adapt.exits and {*QUERY_KEY_VALUE} & {*objective.requires.projections}:
            raise ValueError(
                f"objectives.{name} reads queries, keys and values of the last block, but adapt.exits is {list(config.adapt.exits)}; accepted: "
                "no exits, or objectives between vectors"
            )
        if config.adapt.kind == "elastic" and config.adapt.moves_width and objective.requires.compares_numbers:
            raise ValueError(
                f"objectives.{name} compares vectors number by number, but sub-networks of adapt have another width or order; accepted: "
                "similarity_rows, self_attention_relation"
            )
    refuse_language_settings(config, ENCODER)


def refuse_vectors(objectives: Mapping[str, Objective]) -> None:
    """Raise ValueError for an objective that reads vectors of texts, which a causal model does not give."""
    for name, objective in objectives.items():
        if objective.requires.views == EMBEDDINGS:
            raise ValueError(
                f"objectives.{name} reads vectors of texts, and the model is a causal language model; accepted: an encoder"
            )


SentenceRows = ExampleRows[Sentence]


def sentence_parts(examples_of: Callable[[Row, str], Sequence[Sentence]]) -> Callable[[Any, str], PartOf[Sentence]]:
    """Return what reads a data set's parts: of each row, in the data set of that name, its examples."""

    def parts_of(data: DatasetArtifact, name: str) -> PartOf[Sentence]:
        rows = read_rows(data.path / "rows.jsonl")

        def part_of(part: Split) -> list[tuple[str, Sentence]] | None:
            some = split_rows(rows, part)
            return [(row.id, sentence) for row in some for sentence in examples_of(row, name)] if some else None

        return part_of

    return parts_of


def build_encoder_run(plan: TrainingPlan, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: student, teacher and texts in place."""
    check_exits(plan.adaptation.exits, inputs.model.facts, "adapt.exits")  # a plan may not have known its blocks
    reader = TextReader.of(inputs.model, plan.rows.max_tokens)
    prompts = form_of(inputs.model).prompts  # type: ignore[arg-type] - an encoder
    facts = {fact for objective in plan.reduction.objectives.values() for fact in objective.requires.facts}
    check_latent_tokens(plan.reduction.objectives, inputs.model.facts, plan.schedule.weight_decay)
    reasoned = ReasonedReader(reader, prompts, inputs.model.facts.num_latent_tokens or 0)  # type: ignore[union-attr] - an encoder

    def examples_of(row: Row, name: str) -> list[Sentence]:
        if "reasoning" in facts:
            return reasoned(row, name)
        if "pairs" in facts:
            return _pair(row, name, reader, prompts, is_graded="grades" in facts)
        alike = 1.0 if row.similarity is None else row.similarity
        return [Sentence(ids, similarity=alike) for ids in reader(texts_of([prompted(row, prompts)]))]

    rows = SentenceRows.read(inputs.data, sentence_parts(examples_of))
    reasoned.tell_cuts()
    encoder = load_encoder(inputs.model.path, plan.dtype, plan.device)
    plan.adaptation.method(encoder.model, plan.adaptation.first_block)
    if latent_ids := reasoned.latent_ids:
        train_latent_rows(encoder.model, latent_ids)
    student = EncoderStudent(encoder, plan.adaptation.exits)
    pool = _pooled(plan, inputs, rows)
    texts = SentenceTexts(plan.adaptation.exits, pool.widths)
    plan, student, modality = elastic_training(
        pool.planned(plan), student, texts, lambda model: EncoderStudent(SentenceEncoder(model, encoder.pooling))
    )
    teacher_sources, rows = _teacher_sources(plan, inputs, student, pool.rows)
    return assembled(plan, student, rows, modality, teacher_sources | pool.sources(recorded_vectors), workdir)


def _pooled(plan: TrainingPlan, inputs: FinetuneInputs, rows: SentenceRows) -> Pooled:
    """Return the texts with the vectors of a pool's teachers, weighed by how near each makes the two texts of a row."""
    keys = list(zip(rows.sources, rows.ids, strict=True))
    counts = Counter(keys)

    def read(model: Trainable, name: str, sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
        refuse_other_tokens(inputs.model.path, model.path, name)
        teacher = load_encoder(model.path, plan.dtype, plan.device)
        counter = bar(f"running {name}", len(sentences), "texts")
        ids = [sentence.ids for sentence in sentences]
        vectors = encoded(teacher, ids, plan.schedule.tokens_per_micro_batch, counter.advance)
        return vectors, vectors

    def alike(indices: Sequence[int]) -> Tensor:
        numbers = {key: number for number, key in enumerate(counts)}
        grades = torch.tensor([rows.train[index].similarity for index in indices])
        if not bool((grades.abs() <= 1).all()):
            raise ValueError(
                f"teacher.kind is 'pool', but a pair's similarity is {float(grades.abs().max()):g}; accepted: -1 to 1"
            )
        return (same_class([numbers[keys[index]] for index in indices]) * grades[:, None]).fill_diagonal_(1.0)

    annotated = [index for index, key in enumerate(keys) if counts[key] > 1]
    return Pooled.of(plan.teaching.pool, inputs.teachers, rows, read, alike, annotated)


def _pair(row: Row, name: str, reader: TextReader, prompts: tuple[str, str], *, is_graded: bool) -> list[Sentence]:
    """Return a row as a pair. Raises ValueError for one that is none, and where grades are learned for one without, or beyond -1 to 1."""
    if not (row.question.strip() and row.answer.strip()):
        raise ValueError(f"{name}: row {row.id} is no pair of texts; accepted: a question and an answer a row")
    if is_graded and (row.similarity is None or not -1 <= row.similarity <= 1):
        raise ValueError(
            f"{name}: row {row.id} has similarity {row.similarity}, and pair_distance brings a cosine to it; accepted: -1 to 1"
        )
    row = prompted(row, prompts)
    first, second = reader([row.question, row.answer])
    return [Sentence(first, other=second, similarity=row.similarity or 0.0)]


def _teacher_sources(
    plan: TrainingPlan, inputs: FinetuneInputs, student: TrainedModel, rows: SentenceRows
) -> tuple[dict[ViewName, TeacherSource], SentenceRows]:
    """Return who speaks beside the student, and the texts with the teacher's vectors where it is run once.

    Raises ValueError for a teacher that cuts the same texts into other tokens.
    """
    sources: dict[ViewName, TeacherSource] = {}
    for name, source in plan.teaching.sources.items():
        if source.rule is not None:
            sources[name] = StudentItself(source.rule).begin(student)
        elif source.model is not None:
            refuse_other_tokens(inputs.model.path, source.model.path, name)
            other = load_encoder(source.model.path, plan.dtype, plan.device).requires_grad_(False)
            if name == "teacher" and plan.teaching.is_run_once:
                reads = bool(projections_read(plan.reduction.objectives.values()))
                rows = _with_vectors(rows, other, plan.schedule.tokens_per_micro_batch, with_tokens=reads)
                sources[name] = RecordedOutputs(recorded_vectors)
            else:
                sources[name] = OtherModel(EncoderStudent(other).eval())
    return sources, rows


@torch.no_grad()
def _with_vectors(
    rows: SentenceRows, teacher: SentenceEncoder, tokens_per_batch: int, *, with_tokens: bool
) -> SentenceRows:
    """Run the teacher once over every text: its vectors, and where a loss reads them the states of its tokens in half precision."""
    every = [*rows.train, *rows.heldout]
    counter = bar("running the teacher", len(every), "texts")
    for batch in length_batches([sentence.ids for sentence in every], tokens_per_batch):
        input_ids, mask = pad_right([every[index].ids for index in batch], teacher.device)
        states = teacher.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        vectors = teacher.pooling(states, mask).float().cpu()
        for row, index in enumerate(batch):
            tokens = states[row, : every[index].num_tokens].half().cpu() if with_tokens else None
            every[index] = replace(every[index], teacher=vectors[row].clone(), teacher_tokens=tokens)
        counter.advance(len(batch))
    return replace(rows, train=every[: len(rows.train)], heldout=every[len(rows.train) :])


def refuse_other_tokens(folder: Path, other: Path, who: str) -> None:
    """Raise ValueError for another model that cuts texts into other tokens."""
    probe = ["A probe of words, 12,345.678 and naïve Größe."]
    if TextReader(folder, 0)(probe) != TextReader(other, 0)(probe):
        raise ValueError(
            f"vocabulary mismatch: {who} cuts texts into other tokens than the model; accepted: one tokenizer"
        )
