"""Records of any source as rows of one known shape. What is wrong is refused by file and row, what is blank is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from attar.compressors.catalogue import did_you_mean
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.cells import BlankCellError, is_blank, is_unicode, text_cell
from attar.stages.artifacts.dataset.dialogues import TOOL_COLUMNS, turns_of
from attar.stages.artifacts.dataset.rows import STEP_BREAK, Row
from attar.stages.artifacts.dataset.spans import as_cells, read_spans, read_tags
from attar.stages.ingest.records.choices import Choices, choices_of
from attar.stages.ingest.records.labels import AnswerForm, Labelled, answer_indices
from attar.stages.ingest.records.record_sources import Record

# Columns in which conversations are looked for.
CHAT_FIELDS = ("messages", "conversations", "conversation")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold what, how answers are checked (auto: as the row says), and what is done with the rest."""

    question: str
    answer: str
    choices: str
    messages: str
    similarity: str
    positives: str
    spans: str
    tags: str
    row_id: str
    reasoning: str
    answer_form: AnswerForm
    assistant_turns: Literal["every", "last"]
    blank_rows: Literal["refuse", "drop"]
    max_rows: int
    verifier: str

    @property
    def of_questions(self) -> tuple[str, ...]:
        """The columns of a question with its answer."""
        return self.question, self.answer, self.choices, self.row_id, *self.wanted

    @property
    def beside(self) -> tuple[str, ...]:
        """The columns that stand in an answer's stead, or say how alike it is to the question."""
        return tuple(filter(None, (self.similarity, self.positives, self.spans, self.tags)))

    @property
    def wanted(self) -> tuple[str, ...]:
        """Those columns, and that of the reasoning where a question has its answer and that too."""
        return (self.reasoning, *self.beside) if self.reasoning else self.beside


@dataclass
class TypedRows:
    """The rows of a source, and what was left out of it."""

    rows: list[Row] = field(default_factory=list)
    num_blank_texts: int = 0
    num_dropped: int = 0
    # keys of turns, and columns with something in them, that nothing reads
    unread: set[str] = field(default_factory=set)
    unread_columns: set[str] = field(default_factory=set)


def typed_rows(records: Iterable[Record], columns: Columns) -> TypedRows:
    """Return at most `max_rows` records as rows. Raises ValueError, naming file and row, for the first one that is wrong."""
    made = TypedRows()
    labelled: dict[int, Labelled] = {}
    for index, (where, record) in enumerate(islice(_filled(records, columns, made), columns.max_rows or None)):
        try:
            rows, choices = _rows(record, columns, _name(record, columns, record_id(where, index)), made)
        except BlankCellError as error:
            if columns.blank_rows == "refuse":
                raise ValueError(f"{where} {error}") from error
            made.num_dropped += 1
            continue
        except ValueError as error:
            raise ValueError(f"{where} {error}") from error
        if choices is not None:
            labelled[len(made.rows)] = Labelled(where, record.get(columns.answer), choices)
        made.rows.extend(rows)
    if columns.row_id:
        _refuse_repeated(made.rows, columns.row_id)
    indices = answer_indices([*labelled.values()], columns.answer_form)
    for (position, row), index in zip(labelled.items(), indices, strict=True):
        texts = list(row.choices.texts)
        made.rows[position] = made.rows[position].with_changes(answer=texts[index], choices=texts, answer_index=index)
    return made


def record_id(where: str, index: int) -> str:
    """Return the id of a record's row: its number in the source, else how many came before."""
    number = where.rpartition("row ")[2]
    return f"{int(number) if number.isdigit() else index:06d}"


def _filled(records: Iterable[Record], columns: Columns, made: TypedRows) -> Iterator[Record]:
    """Yield all records but text rows that are blank: those are none."""
    for where, record in records:
        if _is_text(record, columns) and isinstance(record["text"], str) and is_blank(record["text"]):
            made.num_blank_texts += 1
        else:
            yield where, record


def _rows(record: Mapping[str, Any], columns: Columns, name: str, made: TypedRows) -> tuple[list[Row], Choices | None]:
    """Return the rows of a record, and its choices where it has some: which one is right, the whole file tells."""
    chat = _chat_field(record, columns)
    is_text = not chat and _is_text(record, columns)
    read = (chat, "system", *TOOL_COLUMNS) if chat else ("text", columns.row_id) if is_text else columns.of_questions
    made.unread_columns |= {
        column for column, cell in record.items() if column not in (*read, "verifier") and not is_blank(cell)
    }
    if chat:
        return _chat_rows(record, chat, columns, name, made), None
    if is_text:
        return [Row(id=name, text=text_cell(record["text"], "text"))], None
    choices = None if columns.beside else choices_of(record.get(columns.choices), columns.choices)
    is_told = choices is not None and choices.marked_index is not None
    answer_columns = () if is_told or (columns.beside and not columns.similarity) else (columns.answer,)
    for column in (columns.question, *answer_columns, *columns.wanted):
        if column not in record:
            raise ValueError(f"has no column {column!r}.{_known(column, record)}")
    if columns.tags:
        words, spans = read_tags(record[columns.question], record[columns.tags])
        return [Row(id=name, question=" ".join(words), spans=as_cells(spans), words=words)], None
    question = text_cell(record[columns.question], columns.question)
    if columns.spans:
        return [Row(id=name, question=question, spans=as_cells(read_spans(record[columns.spans], question)))], None
    if columns.beside:
        return [_retrieved(record, columns, name, question)], None
    if choices is not None:
        made.unread_columns |= {f"{columns.choices}.{key}" for key in choices.unread_keys}
        if not is_told and is_blank(record[columns.answer]):
            text_cell(record[columns.answer], columns.answer)  # says what is blank
        verifier = "choice" if columns.verifier == "auto" else columns.verifier
        return [Row(id=name, question=question, verifier=verifier, reasoning=_reasoning(record, columns))], choices
    answer = text_cell(record[columns.answer], columns.answer, takes_numbers=True)
    row = Row(id=name, question=question, answer=answer, verifier=_verifier(record, columns))
    return [row.with_changes(reasoning=_reasoning(record, columns))], None


def _reasoning(record: Mapping[str, Any], columns: Columns) -> str:
    """Return how a question is thought through, a list of steps as one text; nothing where no column holds it."""
    if not columns.reasoning:
        return ""
    cell = record[columns.reasoning]
    steps = cell if isinstance(cell, list) else [cell]
    return STEP_BREAK.join(text_cell(step, columns.reasoning) for step in steps or [None])


def _name(record: Mapping[str, Any], columns: Columns, numbered: str) -> str:
    """Return a row's id: its own where a column holds it."""
    if not columns.row_id:
        return numbered
    if columns.row_id not in record:
        raise ValueError(f"has no column {columns.row_id!r}.{_known(columns.row_id, record)}")
    return text_cell(record[columns.row_id], columns.row_id, takes_numbers=True)


def _number(cell: Any, column: str) -> float:
    """Return a cell as a number: decimals of JSON come as they were written."""
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{column} is {str(cell)[:60]!r}; accepted: a number")
    return value


def _refuse_repeated(rows: Iterable[Row], column: str) -> None:
    counts = Counter(row.id for row in rows)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"column {column!r}: id {twice[0]!r} is there twice; accepted: each once")


def _retrieved(record: Mapping[str, Any], columns: Columns, name: str, question: str) -> Row:
    """Return a pair of sentences with its similarity, or a question with the ids of the texts that answer it."""
    if columns.positives:
        ids = record[columns.positives]
        if not isinstance(ids, list) or not ids:
            raise ValueError(f"{columns.positives} is {str(ids)[:60]!r}; accepted: a list of ids, one at least")
        named = [text_cell(text, columns.positives, takes_numbers=True) for text in ids]
        return Row(id=name, question=question, positives=named)
    value = _number(record[columns.similarity], columns.similarity)
    answer = text_cell(record[columns.answer], columns.answer, takes_numbers=True)
    return Row(id=name, question=question, answer=answer, similarity=value)


def _known(name: str, record: Mapping[str, Any]) -> str:
    """Name the columns of a record for a refusal: a line that can be printed, whatever they are called."""
    names = [" ".join(column.split())[:40] for column in record if is_unicode(column)]
    return did_you_mean(name, names[:20])


def _chat_rows(record: Mapping[str, Any], column: str, columns: Columns, name: str, made: TypedRows) -> list[Row]:
    turns, tools, unread = turns_of(record, column)
    made.unread |= unread
    verifier = _verifier(record, columns)
    learned_turns = [turn for turn in turns if turn.is_last or columns.assistant_turns == "every"]
    rows = []
    for index, turn in enumerate(learned_turns):
        is_plain = len(turn.messages) == 1 and not tools
        rows.append(
            Row(
                id=name if len(learned_turns) == 1 else f"{name}.{index:03d}",
                question=turn.question,
                answer=turn.answer,
                verifier=verifier if turn.is_last and not turn.reply else "none",
                # one question alone is asked like any other
                messages=[] if is_plain and not turn.reply else turn.messages,
                tools=tools,
                reply=turn.reply,
                is_last_turn=turn.is_last,
            )
        )
    return rows


def _chat_field(record: Mapping[str, Any], columns: Columns) -> str:
    """Return the column with the conversation, or nothing where the record is no chat."""
    if columns.messages:
        if columns.messages not in record:
            raise ValueError(f"has no column {columns.messages!r}.{_known(columns.messages, record)}")
        return columns.messages
    if columns.question in record:
        return ""
    return next((name for name in CHAT_FIELDS if name in record), "")


def _is_text(record: Mapping[str, Any], columns: Columns) -> bool:
    is_chat = columns.messages or any(name in record for name in CHAT_FIELDS)
    return "text" in record and columns.question not in record and not is_chat


def _verifier(record: Mapping[str, Any], columns: Columns) -> str:
    verifier = record.get("verifier", "none") if columns.verifier == "auto" else columns.verifier
    verifier = "none" if is_blank(verifier) else verifier
    if not isinstance(verifier, str):
        raise ValueError(f"verifier is {type(verifier).__name__}, no text; accepted: {', '.join(ANSWER_CHECKS)}")
    if verifier not in ANSWER_CHECKS:
        raise ValueError(f"verifier {verifier[:60]!r} is unknown.{did_you_mean(verifier[:60], ANSWER_CHECKS)}")
    return verifier
