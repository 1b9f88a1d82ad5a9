"""How a language model is asked for the spans of a text, and what of its answer counts. JSON of one form, spans verbatim.

After *Distilling Large Language Models for Biomedical Knowledge Extraction*, https://arxiv.org/abs/2307.06439.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.compressors.data.prompts import chat_prompt
from attar.compressors.data.spans import Span
from attar.compressors.models.sampling import Sampling
from attar.stages.artifacts.classifier.row_classes import asked_text
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.dataset.spans import SpanError, as_cells, read_span
from attar.stages.artifacts.samplers import Prompt, Sampler, row_seed

LABELLED = "labelled"
UNUSABLE = "unusable answer"
INSTRUCTION = (
    "Find every span of these kinds in the text: {kinds}. Copy each span word for word. "
    'Answer with JSON alone, such as {{"spans": [{{"label": "{kind}", "text": "..."}}]}}, and an empty list where there is none.'
)


@dataclass(frozen=True)
class Answered:
    """What an answer gave. `fault`: why nothing of it counts; `dropped`: of the spans that do not count, what is wrong with each."""

    spans: tuple[Span, ...] = ()
    dropped: tuple[str, ...] = ()
    fault: str = ""

    @property
    def reason(self) -> str:
        """Where a row's spans come from, with what was dropped in brackets; or why it has none."""
        if self.fault:
            return f"{UNUSABLE} ({self.fault})"
        wrong = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(self.dropped).items()))
        answered = len(self.spans) + len(self.dropped)
        return f"{LABELLED} ({len(self.spans)} of {answered} spans{f': {wrong}' if wrong else ''})"


@dataclass(frozen=True)
class AskedTeacher:
    """A language model that is asked for JSON. Its answer, word for word, stays beside what came of it."""

    sampler: Sampler
    tokenizer: Any
    kinds: Sequence[str]
    examples: Sequence[Row]
    max_new_tokens: int = 256
    drops_rows: bool = False

    def label(self, rows: Sequence[Row]) -> list[Row]:
        questions = [self._question(asked_text(row)) for row in rows]
        prompts = [
            Prompt(question, chat_prompt(self.tokenizer, question), row_seed(0, row.id, 0))
            for question, row in zip(questions, rows, strict=True)
        ]
        written = self.sampler.sample(prompts, max_new_tokens=self.max_new_tokens, sampling=Sampling(temperature=0.0))
        made = []
        for row, generation in zip(rows, written, strict=True):
            answer = self.tokenizer.decode(generation.token_ids, skip_special_tokens=True).strip()
            answered = read_answer(answer, asked_text(row), self.kinds)
            if not generation.is_finished:
                answered = Answered(fault="no end")
            elif answered.dropped and self.drops_rows:
                answered = Answered(fault=answered.dropped[0])
            made.append(labelled_row(row, answered, answer))
        return made

    def _question(self, text: str) -> str:
        # an example is not asked with its answer in view
        return span_question(text, self.kinds, [row for row in self.examples if asked_text(row) != text])


def labelled_row(row: Row, answered: Answered, answer: str = "") -> Row:
    """Return a text with what a teacher told of it, and where that comes from."""
    came = {"source": "teacher", "reason": answered.reason, "rewrite": answer}
    if answered.fault:
        return row.with_changes(spans=None, **came)
    return row.with_changes(question=asked_text(row), text="", spans=as_cells(answered.spans), **came)


def span_question(text: str, kinds: Sequence[str], examples: Sequence[Row]) -> str:
    """Return what a model is asked: what to find, some texts with their spans, and the text."""
    instruction = INSTRUCTION.format(kinds=", ".join(kinds), kind=kinds[0])
    shown = [f"Text: {asked_text(row)}\nJSON: {right_answer(row)}" for row in examples]
    return "\n\n".join([instruction, *shown, f"Text: {text}\nJSON:"])


def right_answer(row: Row) -> str:
    """Return the answer that tells a row's own spans."""
    text = asked_text(row)
    spans = [{"label": span["label"], "text": text[span["start"] : span["end"]]} for span in row.spans or ()]
    return json.dumps({"spans": spans}, ensure_ascii=False)


def read_answer(answer: str, text: str, kinds: Collection[str]) -> Answered:
    """Return the spans of an answer that are verbatim in the text. What stands around its JSON is passed over."""
    given = _object(answer)
    if given is None:
        return Answered(fault="no JSON")
    listed = given.get("spans")
    if set(given) != {"spans"} or not isinstance(listed, list):
        return Answered(fault="another form")
    spans: list[Span] = []
    dropped: list[str] = []
    for entry in listed:
        if not isinstance(entry, Mapping) or set(entry) != {"label", "text"}:
            dropped.append("of another form")
        elif entry["label"] not in kinds:
            dropped.append("of another kind")
        else:
            try:
                spans.append(read_span(entry, text, spans))
            except SpanError as error:
                dropped.append(error.kind)
    return Answered(tuple(sorted(spans)), tuple(dropped))


def _object(answer: str) -> dict[str, Any] | None:
    start = answer.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(answer, start)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
