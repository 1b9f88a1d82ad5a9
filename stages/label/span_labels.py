"""Stage `label_spans`: a language model or a tagger tells the spans of texts. What is not verbatim is no label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol

from pydantic import Field, field_validator

from attar.compressors.data.spans import in_characters, kinds_of, spans_of, tags_for
from attar.compressors.export.runtime import CPU
from attar.compressors.measure.classes import SpanCounts, span_f1
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import (
    DatasetArtifact,
    ModelArtifact,
    OnnxArtifact,
    TaggerArtifact,
    TaggerGraphArtifact,
)
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.registry.artifacts.subjects import CAUSAL, TAGGER, subject_of
from attar.stages.artifacts.chat_server import ServerConfig, ServerSampler
from attar.stages.artifacts.classifier.row_classes import asked_text, locations_of, tags_of_row
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.curation import Dropped
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.samplers import RunnerSampler, Sampler
from attar.stages.artifacts.text_models import opened
from attar.stages.artifacts.writers import open_runner, stop_ids_of
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.evaluate.classes.tagger import TaggedTask, predicted_tags
from attar.stages.label.json_answers import Answered, AskedTeacher, labelled_row, read_answer
from attar.stages.runtime.device import Precision, pick_device, pick_dtype
from attar.stages.runtime.progress import metric, note


class LabelSpansConfig(StageConfig):
    """What is asked of the teacher, and which of its labels stay."""

    kinds: list[str] = []
    """Kinds of spans that a language model is asked for; empty: those of the input `examples`. A tagger tells its own."""

    num_examples: int = Field(default=4, ge=0)
    """Texts with their spans that a language model is shown, of the training rows of the input `examples`."""

    wrong_spans: Literal["drop_span", "drop_row"] = "drop_span"
    """What goes for a span that is not verbatim in its text, overlaps another or is of another kind: it alone, or its text."""

    max_new_tokens: int = Field(default=256, ge=8)
    """Longest answer of a language model, in tokens; one that has not ended by then is unusable."""

    batch_size: int = Field(default=16, ge=1)
    """Texts answered together; of a tagger, texts of 128 tokens or as many tokens."""

    server: ServerConfig | None = None
    """A server of the input model that answers in its stead."""

    precision: Precision = "auto"
    """Dtype of a torch teacher."""

    seed: int = 0
    """Which examples are shown."""

    @field_validator("kinds")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        for kind in value:
            if not kind.strip() or len(kind.splitlines()) > 1 or value.count(kind) > 1:
                raise ValueError(f"kinds has {kind[:60]!r}; accepted: words on a line, each once")
        return value


@dataclass(frozen=True, kw_only=True)
class LabelSpansInputs:
    """The teacher, the texts (rows of `text`, or questions), and rows with their spans that a language model is shown."""

    model: ModelArtifact | OnnxArtifact | TaggerArtifact | TaggerGraphArtifact
    data: DatasetArtifact
    examples: DatasetArtifact | None = None


def _forecast(config: LabelSpansConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, subject = inputs["model"][0], subject_of(inputs["model"][0])
    if subject not in (CAUSAL, TAGGER):
        raise ValueError(f"input model is {subject.words}; accepted: a causal language model, a tagger")
    if subject is TAGGER and (given := [name for name in ("kinds", "server") if getattr(config, name)]):
        raise ValueError(f"{given[0]} is given, but the model is a tagger, which tells its own kinds; accepted: none")
    if subject is TAGGER and inputs.get("examples"):
        raise ValueError("input examples is shown to a language model, and the model is a tagger; leave it out")
    if subject is CAUSAL and not config.kinds and not inputs.get("examples"):
        raise ValueError("kinds is empty, and there are no examples; accepted: kinds of spans, or the input examples")
    if config.server is not None:
        config.server.check_key()
    num_parameters = float(model.get("num_parameters", 0))
    num_tokens = 64 if subject is TAGGER else 512 + config.max_new_tokens
    num_flops = 2.0 * num_parameters * float(inputs["data"][0].get("num_rows", 0)) * num_tokens
    facts = {name: inputs["data"][0][name] for name in ("name",) if name in inputs["data"][0]}
    return Forecast({**facts, "num_recorded": 0}, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters)


class Teacher(Protocol):
    """Who tells spans."""

    @property
    def kinds(self) -> Sequence[str]: ...

    def label(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with their spans; without, and with a reason, where the teacher told nothing that can be used."""
        ...


@dataclass(frozen=True)
class TaggingTeacher:
    """A tagger, whose spans are words of the text."""

    runner: Any
    reader: TextReader
    tags: Sequence[str]
    batch_size: int

    @property
    def kinds(self) -> Sequence[str]:
        return kinds_of(self.tags)

    def label(self, rows: Sequence[Row]) -> list[Row]:
        locations = [locations_of(row) for row in rows]
        task = TaggedTask([asked_text(row) for row in rows], locations, [], [])
        labels = predicted_tags(self.runner, self.reader, task, self.tags, self.batch_size, "a shard")
        return [
            labelled_row(row, Answered(tuple(in_characters(spans_of(tags), own))))
            for row, tags, own in zip(rows, labels, locations, strict=True)
        ]


@stage("label_spans", version=1, forecast=_forecast)
def label_spans(config: LabelSpansConfig, inputs: LabelSpansInputs, workdir: Path) -> DatasetArtifact:
    """Give each text the spans that the teacher tells, as far as they are verbatim in it. Held-out texts keep their own.

    Every row says what was dropped of its answer; texts with an unusable answer are left out and listed. Where texts have spans already, the
    teacher is measured on them. Shards written by an interrupted run are kept. Raises ValueError when no training text is labelled.
    https://arxiv.org/abs/2307.06439
    """
    rows = read_rows(inputs.data.path / "rows.jsonl")
    learned = [row for row in rows if row.split != "heldout" and locations_of(row)]
    if not learned:
        raise ValueError("input data: no row has a text to learn or choose on; set heldout_fraction below 1")
    teacher = _teacher(config, inputs)
    by_length = sorted(learned, key=lambda row: (len(asked_text(row)), row.id))
    labelled = {row.id: row for row in by_shard(workdir, "labelling", by_length, teacher.label)}
    made = [labelled.get(row.id, row) for row in rows if row.split == "heldout" or row.id in labelled]
    usable = [row for row in made if row.split == "heldout" or row.spans is not None]
    dropped = [Dropped(row, row.reason) for row in made if row.split != "heldout" and row.spans is None]
    if not any(row.split == "train" for row in usable):
        why = dropped[0].reason if dropped else "the data has no training rows"
        raise ValueError(f"no training text of {len(learned)} has a label that counts; the first: {why}")
    _report(learned, labelled, teacher.kinds)
    content, name = workdir / "content", inputs.data.facts.name or "texts"
    content.mkdir(parents=True, exist_ok=True)
    write_rows(content / "rows.jsonl", usable)
    write_card(content, usable, name=name, dropped=dropped)
    heldout, choose = (sum(row.split == split for row in usable) for split in ("heldout", "choose"))
    facts = DatasetFacts(
        name=name,
        num_rows=len(usable),
        num_heldout=heldout,
        num_choose=choose,
        num_dropped=len(dropped),
        num_recorded=0,
    )
    return DatasetArtifact.at(content, facts)


def _teacher(config: LabelSpansConfig, inputs: LabelSpansInputs) -> Teacher:
    """Return who tells spans. Raises ValueError where neither kinds nor examples say what a language model is asked for."""
    model: Any = inputs.model
    if model.subject is TAGGER:
        device = pick_device()
        runner = opened(model, CPU, pick_dtype(config.precision, device), device)
        return TaggingTeacher(runner, TextReader.of(model), model.facts.labels, config.batch_size)
    rows = [] if inputs.examples is None else read_rows(inputs.examples.path / "rows.jsonl")
    known = [row for row in rows if row.split == "train" and row.spans is not None]
    kinds = config.kinds or sorted({span["label"] for row in known for span in row.spans or ()})
    if not kinds:
        raise ValueError("input examples: no training row has a span; set columns.spans or columns.tags in ingest_data")
    examples = Random(config.seed).sample(known, min(config.num_examples, len(known)))
    tokenizer = load_tokenizer(model.path)
    sampler: Sampler
    if config.server is not None:
        sampler = ServerSampler(config.server, tokenizer)
    else:
        runner = open_runner(model, config.precision)
        sampler = RunnerSampler(runner, stop_ids_of(tokenizer, model.path), config.batch_size)
    return AskedTeacher(sampler, tokenizer, kinds, examples, config.max_new_tokens, config.wrong_spans == "drop_row")


def _report(learned: Sequence[Row], labelled: Mapping[str, Row], kinds: Sequence[str]) -> None:
    """Tell how many texts and spans count, and how well the teacher does where spans are known."""
    usable = {name: row for name, row in labelled.items() if row.spans is not None}
    answers = [read_answer(row.rewrite, asked_text(row), kinds) for row in usable.values() if row.rewrite]
    wrong = Counter(kind for answer in answers for kind in answer.dropped)
    num_spans = sum(len(row.spans or ()) for row in usable.values())
    metric("usable_fraction", len(usable) / len(learned))
    metric("num_spans", float(num_spans))
    metric("num_dropped_spans", float(wrong.total()))
    why = "".join(f", {count} {kind}" for kind, count in wrong.most_common())
    note(
        f"{len(usable)} of {len(learned)} texts are labelled, with {num_spans} spans; {wrong.total()} spans dropped{why}"
    )
    known = [row for row in learned if row.spans is not None and row.id in usable]
    if known:
        tags = tags_for(sorted({*kinds, *(span["label"] for row in known for span in row.spans or ())}))
        own, labels = (
            [tags_of_row(row, tags, "data") for row in some] for some in (known, [usable[row.id] for row in known])
        )
        quality = span_f1(SpanCounts.of(labels, own, tags))
        metric("teacher_span_f1", quality)
        note(f"of {len(known)} texts whose spans are known the teacher's F1 is {quality:.3f}")
