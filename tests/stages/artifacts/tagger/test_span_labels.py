"""Labels of a teacher that errs: what is not verbatim is dropped, what is no JSON is left out, and every row says where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from attar.compressors.data.spans import Span
from attar.compressors.models.sampling import Generation, Sampling
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, TaggerArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.dataset.spans import as_cells, read_spans
from attar.stages.artifacts.samplers import Prompt
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.ingest.tiny_model import byte_tokenizer
from attar.stages.label.json_answers import AskedTeacher, read_answer, right_answer, span_question
from attar.stages.label.span_labels import LabelSpansConfig, LabelSpansInputs, label_spans
from tests.stages.artifacts.classifier.conftest import taught
from tests.stages.artifacts.tagger.conftest import KINDS, LESSON, ROWS, tagger_of

TOKENIZER = byte_tokenizer()
FLOAT = LabelSpansConfig(precision="float32")


def gold() -> list[Row]:
    return [
        Row(id=f"{index:03d}", question=row["text"], spans=as_cells(read_spans(row["spans"], row["text"])))
        for index, row in enumerate(ROWS)
    ]


@dataclass(frozen=True)
class Scripted:
    """A writer whose answer to each text is known before."""

    answers: Mapping[str, str]

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        num_recorded: int = 0,
        is_scored: bool = False,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Generation]:
        texts = [prompt.text.rpartition("Text: ")[2].removesuffix("\nJSON:") for prompt in prompts]
        return [Generation(TOKENIZER(self.answers[text]).input_ids, is_finished=True) for text in texts]


def erring(rows: Sequence[Row], wrong_spans: float, no_json: float) -> tuple[Scripted, dict[str, list[Any]]]:
    """Return a teacher that changes a share of the spans and does not answer a share of the texts, with the spans that it left right."""
    random = Random(0)
    answers, right = {}, {}
    for row in rows:
        answered = json.loads(right_answer(row))["spans"]
        is_wrong = [random.random() < wrong_spans for _ in answered]
        right[row.id] = [cell for cell, wrong in zip(row.spans or (), is_wrong, strict=True) if not wrong]
        for span, wrong in zip(answered, is_wrong, strict=True):
            span["text"] = f"{span['text']}?!" if wrong else span["text"]
        is_silent = random.random() < no_json
        answers[row.question] = "There is nothing." if is_silent else f"Sure: {json.dumps({'spans': answered})} Done."
        right |= {row.id: None} if is_silent else {}  # type: ignore[dict-item]
    return Scripted(answers), right


@pytest.mark.parametrize("drops_rows", [False, True])
def test_the_filter_drops_what_a_teacher_made_up_and_nothing_else(drops_rows: bool) -> None:
    rows = gold()
    sampler, right = erring(rows, wrong_spans=0.3, no_json=0.1)
    made = AskedTeacher(sampler, TOKENIZER, KINDS, rows[:2], drops_rows=drops_rows).label(rows)
    num_wrong = num_silent = 0
    for row, before in zip(made, rows, strict=True):
        expected = right[row.id]
        assert row.source == "teacher" and row.rewrite == sampler.answers[before.question]
        if expected is None:
            num_silent += 1
            assert row.spans is None and row.reason == "unusable answer (no JSON)"
            continue
        count = len(before.spans or ()) - len(expected)
        num_wrong += count
        if drops_rows and count:
            assert row.spans is None and row.reason == "unusable answer (not verbatim)"
        else:
            assert row.spans == expected
            assert row.reason == f"labelled ({len(expected)} of 2 spans{f': {count} not verbatim' if count else ''})"
    # the error rates that the teacher was given: 3 in 10 spans, 1 in 10 texts
    assert num_wrong / (2 * (len(rows) - num_silent)) == pytest.approx(0.3, abs=0.1)
    assert num_silent / len(rows) == pytest.approx(0.1, abs=0.08)


def test_a_right_answer_gives_the_spans_that_it_tells() -> None:
    for row in gold():
        answered = read_answer(right_answer(row), row.question, KINDS)
        assert as_cells(answered.spans) == row.spans and not answered.dropped and not answered.fault
    question = span_question("of Ada", KINDS, gold()[:1])
    assert "Name, Count" in question and f"JSON: {right_answer(gold()[0])}" in question
    assert question.endswith("Text: of Ada\nJSON:")


@pytest.mark.parametrize(
    ("answer", "spans", "dropped", "fault"),
    [
        ('```json\n{"spans": [{"label": "Name", "text": "Ada"}]}\n```', [Span(3, 6, "Name")], (), ""),
        ('{"spans": []}', [], (), ""),
        ('{"spans": [{"label": "Name", "text": "ada"}]}', [], ("not verbatim",), ""),
        ('{"spans": [{"label": "Location", "text": "Ada"}]}', [], ("of another kind",), ""),
        (
            '{"spans": [{"label": "Name", "text": "Ada"}, {"label": "Name", "text": "Ada"}]}',
            [Span(3, 6, "Name")],
            ("overlap",),
            "",
        ),
        ('{"spans": [{"label": "Name", "text": "Ada", "start": 0}, "Ada"]}', [], ("of another form",) * 2, ""),
        ('{"spans": [{"label": "Name", "text": 3}]}', [], ("no span",), ""),
        ('{"spans": [{"label": "Name", "text": "Ada"}', [], (), "no JSON"),
        ("Ada", [], (), "no JSON"),
        ('{"names": ["Ada"]}', [], (), "another form"),
        ('{"spans": "Ada"}', [], (), "another form"),
        ('{"spans": ' + "[" * 100_000, [], (), "no JSON"),
    ],
)
def test_answers_are_read_by_one_form(answer: str, spans: list[Span], dropped: tuple[str, ...], fault: str) -> None:
    answered = read_answer(answer, "of Ada, not 3", KINDS)
    assert (list(answered.spans), answered.dropped, answered.fault) == (spans, dropped, fault)


def test_a_student_learns_what_a_tagger_labels(store: Store, tagger: TaggerArtifact, spans: DatasetArtifact) -> None:
    labelled = label_spans.execute(FLOAT, LabelSpansInputs(model=tagger, data=spans), store).artifact
    before, after = (read_rows(data.path / "rows.jsonl") for data in (spans, labelled))
    assert [row.id for row in after] == [row.id for row in before]
    for own, made in zip(before, after, strict=True):
        if own.split == "heldout":
            assert made == own
        else:
            assert made.source == "teacher" and made.reason.startswith("labelled (")
            assert all(made.question[span["start"] : span["end"]].strip() for span in made.spans or ())
    student = taught(store, tagger_of(store, labels=KINDS, max_tokens=64, seed=1), labelled, **LESSON)
    inputs = EvaluateInputs(model=student, tasks=(spans,))
    assert evaluate.execute(EvaluateConfig(precision="float32"), inputs, store).artifact.facts["span_f1"] > 0.6


def test_a_model_that_writes_no_json_labels_nothing(store: Store, model: ModelArtifact, spans: DatasetArtifact) -> None:
    config = FLOAT.with_changes(max_new_tokens=8, num_examples=1)
    with pytest.raises(
        ValueError, match=r"no training text of \d+ has a label that counts; the first: unusable answer"
    ) as no:
        label_spans.execute(config, LabelSpansInputs(model=model, data=spans, examples=spans), store)
    assert "\n" not in str(no.value)


def test_what_does_not_fit_is_refused_before_any_work() -> None:
    tagger_facts: dict[str, Any] = {"reads_words": True, "labels": ("O", "B-A", "I-A")}
    asks = LabelSpansConfig(kinds=["A"])
    for config, given, message in (
        (
            FLOAT,
            {"model": ({"labels": ("a", "b")},)},
            "input model is a classifier; accepted: a causal language model, a tagger",
        ),
        (asks, {"model": (tagger_facts,)}, "kinds is given, but the model is a tagger"),
        (FLOAT, {"model": (tagger_facts,), "examples": ({},)}, "input examples is shown to a language model"),
        (FLOAT, {"model": ({},)}, "kinds is empty, and there are no examples"),
    ):
        with pytest.raises(ValueError, match=message):
            label_spans.forecast(config, {"data": ({},), **given})
    with pytest.raises(ValueError, match="kinds has 'A'; accepted: words on a line, each once"):
        LabelSpansConfig(kinds=["A", "A"])
