"""The rows of data sets as training examples, with their teacher. In the order that training takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.data.prompts import text_windows
from attar.compressors.distill.examples.chunks import Chunks
from attar.compressors.distill.examples.learned import LearnedExample
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.teachers.contexts import Shown
from attar.compressors.distill.teachers.student import Student, record_prefix
from attar.compressors.distill.teachers.teacher_sources import TeacherSource, run_once
from attar.registry.artifacts.handles import AnyData
from attar.stages.artifacts.dataset.partition import shared_rows_note
from attar.stages.artifacts.dataset.rows import Row, Split, piece_split, read_rows
from attar.stages.artifacts.dataset.samples import exact_tokens
from attar.stages.artifacts.dataset.states_file import StatesFile
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.finetune.schedule_config import Learned
from attar.stages.runtime.progress import bar, note

PREFIX_FILE, TEACHER_FILE = "prefix.bin", "teacher.bin"


@dataclass(frozen=True)
class LearnedTokens:
    """Which tokens of a row are learned, and where a row is cut."""

    learn: Learned
    max_tokens: int


@dataclass(frozen=True)
class TrainingRows:
    """Examples to learn and to evaluate; `sources[i]` and `ids[i]` say which data set and row `train[i]` came from.

    What is evaluated (`heldout`) are a data set's rows for choices; where it has none, its held-out rows: `evaluated_parts` says which.
    """

    train: list[Example]
    heldout: list[Example]
    sources: list[int]
    ids: list[str]
    heldout_rows: list[Row]
    # the row of each example where it is a question, None for text
    questions: list[Row | None]
    heldout_questions: list[Row | None]
    evaluated_parts: list[Split] = field(default_factory=list)
    # which data set each held-out example is of, and sets of demonstrations that vectors stand for, where they do
    heldout_sources: list[int] = field(default_factory=list)
    shown: Sequence[Shown] = ()

    @staticmethod
    def read(
        datasets: Sequence[AnyData], tokenizer: Any, *, learn: Learned, max_tokens: int, reads_record: bool
    ) -> TrainingRows:
        """Read every data set once. Raises ValueError when nothing is left to train on."""
        rows, learned = TrainingRows([], [], [], [], [], [], []), LearnedTokens(learn, max_tokens)
        for source, data in enumerate(datasets):
            _read_dataset(learned, data, source, tokenizer, rows, TeacherRecord(data.path) if reads_record else None)
        if not rows.train:
            raise ValueError("the data has no training rows")
        return rows

    def check(self, objectives: Mapping[str, Objective], stop_on: str, *, reads_record: bool) -> None:
        """Raise ValueError when an objective has no teacher at all, or nothing says whether an answer is right."""
        if reads_record and not any(example.top_ids is not None for example in self.train):
            names = [name for name, objective in objectives.items() if "teacher" in objective.requires.sources]
            raise ValueError(f"objectives.{names[0]}: no row has recorded teacher log-probabilities")
        for name, objective in objectives.items():
            if "chunks" in objective.requires.facts and not any(example.facts.chunks for example in self.train):
                raise ValueError(f"objectives.{name}: no row has chunks; put the stage `align` before")
        if stop_on == "quality" and not any(is_checkable(row) for row in self.heldout_rows):
            raise ValueError("heldout.stop_on is 'quality', but no held-out row has choices or a verifier; use 'loss'")

    def add_heldout(self, part: Split, pairs: Sequence[tuple[Row, Example]], source: int) -> None:
        """Add examples to evaluate, each with its row, of a data set."""
        self.heldout_sources.extend(source for _ in pairs)
        self.heldout.extend(example for _, example in pairs)
        self.heldout_questions.extend(row if row.question else None for row, _ in pairs)
        self.heldout_rows.extend({row.id: row for row, _ in pairs if row.split != "train"}.values())
        if pairs:
            self.evaluated_parts.append(part)


@dataclass(frozen=True)
class Mixture:
    """The order of an epoch: all examples shuffled, or with `shares` so many tokens of each source.

    With shares an epoch ends where the first source is used up; the others go on in the next one where they were.
    """

    examples: Sequence[LearnedExample]
    sources: Sequence[int]
    shares: Sequence[float]
    seed: int

    def __call__(self, epoch: int) -> list[int]:
        """Return the examples of an epoch in order."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        if not self.shares:
            return torch.randperm(len(self.examples), generator=generator).tolist()
        chosen = [index for source in range(len(self.shares)) for index in self._slice(source, epoch)]
        return [chosen[index] for index in torch.randperm(len(chosen), generator=generator).tolist()]

    def _slice(self, source: int, epoch: int) -> list[int]:
        members = [index for index, other_source in enumerate(self.sources) if other_source == source]
        count = self._num_taken(source, len(members))
        taken = []
        for slot in range(epoch * count, (epoch + 1) * count):
            cycle, position = divmod(slot, len(members))
            shuffled = torch.Generator().manual_seed(self.seed * 1_000_003 + 7919 * (source + 1) + cycle)
            if position == 0 or slot == epoch * count:
                order = torch.randperm(len(members), generator=shuffled).tolist()
            taken.append(members[order[position]])
        return taken

    def _num_taken(self, source: int, num_members: int) -> int:
        tokens = [0] * len(self.shares)
        for index, name in enumerate(self.sources):
            tokens[name] += self.examples[index].num_tokens
        if not all(tokens):
            raise ValueError(f"data {tokens.index(0) + 1} of {len(tokens)} has no training rows, but a share")
        epoch_tokens = min(count / share for count, share in zip(tokens, self.shares, strict=True))
        return max(1, round(num_members * epoch_tokens * self.shares[source] / tokens[source]))


def with_prefix(
    rows: TrainingRows, used: Set[int], student: Student, workdir: Path, tokens_per_batch: int, is_packed: bool
) -> TrainingRows:
    """Run the frozen blocks once over the examples that training reaches. Their states are kept for every example."""
    if student.first_block == 0:
        return rows

    def run(examples: Sequence[Example]) -> Iterator[tuple[int, Tensor]]:
        num_tokens = sum(example.num_tokens for example in examples)
        note(f"the first {student.first_block} blocks are frozen: run once over {num_tokens:,} tokens")
        counter = bar("recording the frozen blocks", num_tokens, "tokens")
        states = record_prefix(student, examples, tokens_per_batch=tokens_per_batch, is_packed=is_packed)
        return file.write(states, num_tokens, counter)

    file = StatesFile(workdir / PREFIX_FILE, student.model.dtype)
    return _with_states(rows, used, "prefix", file, run)


def with_teacher_states(
    rows: TrainingRows,
    used: Set[int],
    teacher: TeacherSource,
    student: Student,
    workdir: Path,
    tokens_per_batch: int,
    is_packed: bool,
) -> TrainingRows:
    """Run a teacher model once over the examples that training reaches. Its last hidden state at every learned token is recorded."""

    def run(examples: Sequence[Example]) -> Iterator[tuple[int, Tensor]]:
        num_tokens = sum(len(example.answer_ids) for example in examples)
        counter = bar("running the teacher", num_tokens, "tokens")
        states = run_once(teacher, student, examples, tokens_per_batch=tokens_per_batch, is_packed=is_packed)
        return file.write(states, num_tokens, counter)

    assert teacher.own_model is not None, "only a model of its own is run once"
    file = StatesFile(workdir / TEACHER_FILE, teacher.own_model.model.dtype)
    return _with_states(rows, used, "teacher_states", file, run)


def _with_states(
    rows: TrainingRows,
    used: Set[int],
    name: str,
    file: StatesFile,
    run: Callable[[Sequence[Example]], Iterator[tuple[int, Tensor]]],
) -> TrainingRows:
    """Return the rows with the states of each example of the training part that is used, and of the held-out part, under `name`.

    They are those in `file` where an interrupted run had finished it, else what `run` yields.
    """
    indices = [*sorted(used), *range(len(rows.train), len(rows.train) + len(rows.heldout))]
    every = [*rows.train, *rows.heldout]
    stored = file.read(len(indices))
    if stored is not None:
        note(f"continuing: {name.replace('_', ' ')} of {len(indices):,} examples was written before")
    for index, states in stored or run([every[index] for index in indices]):
        every[indices[index]] = replace(every[indices[index]], **{name: states})
    return replace(rows, train=every[: len(rows.train)], heldout=every[len(rows.train) :])


def is_checkable(row: Row) -> bool:
    """Say whether an answer to this row can be found right or wrong."""
    return bool(row.choices) or (bool(row.question) and row.verifier != "none")


def _read_dataset(
    learned: LearnedTokens,
    data: AnyData,
    source: int,
    tokenizer: Any,
    into: TrainingRows,
    teacher: TeacherRecord | None,
) -> None:
    evaluations: dict[Split, list[tuple[Row, Example]]] = {"choose": [], "heldout": []}
    for row in read_rows(data.path / "rows.jsonl"):
        examples = [example for example in _row_examples(learned, row, tokenizer, teacher) if example.answer_ids]
        for piece, example in enumerate(examples):
            split = piece_split(row.split, piece)
            if split != "train":
                evaluations[split].append((row, example))
                continue
            into.train.append(example)
            into.questions.append(row if row.question else None)
            into.sources.append(source)
            into.ids.append(row.id)
    part: Split = "choose" if evaluations["choose"] else "heldout"
    into.add_heldout(part, evaluations[part], source)
    if part == "heldout" and evaluations[part]:
        note(shared_rows_note(data.facts.name or f"data {source + 1}", "decide which state is kept"))


def _row_examples(learned: LearnedTokens, row: Row, tokenizer: Any, teacher: TeacherRecord | None) -> list[Example]:
    """Return one example of a question or of a model's own text; plain text gives one for each `max_tokens`."""
    if row.question or row.answer_ids:
        return [_example(learned, row, tokenizer, teacher)]
    return [Example(context, piece) for context, piece in text_windows(tokenizer, row.text, learned.max_tokens)]


def _example(learned: LearnedTokens, row: Row, tokenizer: Any, teacher: TeacherRecord | None) -> Example:
    prompt, answer = exact_tokens(tokenizer, row)
    num_whole = len(prompt) + len(answer)
    if learned.learn == "all":
        prompt, answer = prompt[:1], [*prompt[1:], *answer]
    answer = answer[: max(0, learned.max_tokens - len(prompt))]
    chunks = Chunks(tuple(row.chunk_ends), tuple(row.chunk_nats)).within(len(answer)) if row.chunk_ends else None
    if chunks is not None and learned.learn == "all":
        raise ValueError(f"row {row.id} has chunks of its answer, but learn is 'all'; accepted: answers")
    facts = SampleFacts(pass_rate=row.pass_rate, score=row.score, chunks=chunks)
    recorded = None if teacher is None else teacher.of(row)
    if recorded is None or not answer:
        return Example(prompt, answer, facts=facts, name=row.id)
    # what was recorded ends where the row ends: cut what was cut off there, then what is not learned at the front
    num_cut = num_whole - len(prompt) - len(answer)
    ids, logprobs = (part[: len(part) - num_cut][-len(answer) :] for part in recorded)
    return Example(prompt, answer, ids, logprobs, facts=facts, name=row.id)
