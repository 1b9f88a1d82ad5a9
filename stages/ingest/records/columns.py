"""Which columns of a source hold what."""

from __future__ import annotations

from pydantic import model_validator

from attar.stages.contract import StageConfig
from attar.stages.ingest.records.labels import AnswerForm


class ColumnsConfig(StageConfig):
    """Which columns hold what."""

    question: str = "question"
    """Column with the question or instruction."""

    answer: str = "answer"
    """Column with the reference answer: text, or for multiple choice the text, letter or index (from 0) of the right choice."""

    choices: str = "choices"
    """Column with the list of choices, or `{text: [...], label: [...]}`; rows without it are open questions. Where `is_correct` marks one
    choice as right, an answer beside it must name that one, and may be left out."""

    answer_form: AnswerForm = "auto"
    """How an answer names its choice: text; index counts from 0, number from 1. auto: by the whole file; what two ways read otherwise is
    refused."""

    similarity: str = ""
    """Column with a number: how alike the texts in `question` and `answer` are. Rows are pairs of sentences then."""

    positives: str = ""
    """Column with a list of ids: the texts of a corpus (another data set, of `text` rows) that answer the question. It needs no answer."""

    row_id: str = ""
    """Column with a row's own id, by which `positives` of another data set name it; empty: rows are numbered."""

    reasoning: str = ""
    """Column with how a question is thought through, beside its answer: text, its steps with a blank line between two, or a list of steps."""

    messages: str = ""
    """Column with a conversation (role/content or from/value); empty: messages or conversations, where there is no question column."""

    spans: str = ""
    """Column with a list of spans of the text in `question`, each {label, start, end} (characters) or {label, text}; empty lists are rows
    without a span. It needs no answer."""

    tags: str = ""
    """Column with a list of tags, O, B-KIND or I-KIND, a tag for each of the words that `question` lists. It needs no answer."""

    @model_validator(mode="after")
    def _one_way(self) -> ColumnsConfig:
        given = [name for name in ("similarity", "positives", "spans", "tags") if getattr(self, name)]
        if self.reasoning and given:
            raise ValueError(
                f"columns names reasoning and {given[0]}; accepted: a reasoning beside questions with their answers alone"
            )
        if len(given) > 1 and set(given) & {"spans", "tags"}:
            raise ValueError(f"columns names {given[0]} and {given[1]}; accepted: one of them")
        return self
