"""Texts as an encoder reads them: token ids with the tokenizer's own first and last, cut at the encoder's length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.data.spans import Location, first_tokens
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_tokenizer

# Texts that the tokenizer cuts in one call.
AT_ONCE = 4096


class TextReader:
    """Cuts texts into the tokens of one encoder."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = load_tokenizer(folder)
        self._limit: dict[str, Any] = {"truncation": True, "max_length": max_tokens} if max_tokens else {}

    @staticmethod
    def of(model: Artifact[Any], max_tokens: int = 0) -> TextReader:
        """Return the reader of an encoder or its graph, which cuts at fewer tokens where that is asked for."""
        facts: Facts = model.facts
        longest = int(facts["max_tokens"])
        return TextReader(model.path, min(longest, max_tokens or longest))

    def __call__(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return the token ids of each text, or pair of texts, special tokens included. Raises ValueError for one that has none."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), AT_ONCE):
            part = list(texts[start : start + AT_ONCE])
            columns = part if isinstance(part[0], str) else [list(column) for column in zip(*part, strict=True)]
            both = (columns,) if isinstance(part[0], str) else columns
            ids += self._tokenizer(*both, add_special_tokens=True, **self._limit).input_ids
        if empty := [index for index, some in enumerate(ids) if not some]:
            raise ValueError(f"text {empty[0]} has no tokens; accepted: texts with one at least")
        return ids

    @property
    def num_special(self) -> int:
        """How many tokens of its own the tokenizer puts around a text."""
        return self._tokenizer.num_special_tokens_to_add()

    def token_ids(self, names: Sequence[str]) -> list[int]:
        """Return the ids of words of the tokenizer."""
        return self._tokenizer.convert_tokens_to_ids(list(names))

    def located(self, text: str, locations: Sequence[Location]) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the token ids of a text, and where its parts are. Of each the first token and the one behind its last, if before the cut."""
        made = self._tokenizer(text, add_special_tokens=True, return_offsets_mapping=True, **self._limit)
        parts = []
        for start, end in locations:
            own = [
                index for index, (first, last) in enumerate(made.offset_mapping) if max(first, start) < min(last, end)
            ]
            parts += [(own[0], own[-1] + 1)] if own else []
        return made.input_ids, parts

    def aligned(
        self, texts: Sequence[str], locations: Sequence[Sequence[Location]]
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Yield the token ids of each text with the first token of each of its words. It is -1 behind the cut."""
        for start in range(0, len(texts), AT_ONCE):
            part = list(texts[start : start + AT_ONCE])
            made = self._tokenizer(part, add_special_tokens=True, return_offsets_mapping=True, **self._limit)
            yield from (
                (ids, first_tokens(offsets, words))
                for ids, offsets, words in zip(
                    made.input_ids, made.offset_mapping, locations[start : start + AT_ONCE], strict=True
                )
            )


def asked_texts(rows: Iterable[Row]) -> list[str]:
    """Return the texts of rows that are put into classes, each once. An answer is the name of a class, and no text."""
    return list(dict.fromkeys(text for row in rows if (text := row.text or row.question).strip()))


def pair_texts(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return the pairs of texts of rows, each once."""
    return list(
        dict.fromkeys((row.question, row.answer) for row in rows if row.question.strip() and row.answer.strip())
    )


def texts_of(rows: Iterable[Row]) -> list[str]:
    """Return what of rows an encoder can read, each text once. Plain texts, questions and answers, both sentences of a pair."""
    parts = (part for row in rows for part in ((row.text,) if row.text else (row.question, row.answer)))
    return list(dict.fromkeys(part for part in parts if part.strip()))


def prompted(row: Row, prompts: tuple[str, str]) -> Row:
    """Return a row whose question, and answer or text, stand behind an encoder's prompts. Sentences of a graded pair are neither."""
    if row.similarity is not None or not any(prompts):
        return row
    query, document = prompts
    texts = {"question": query + row.question, "answer": document + row.answer, "text": document + row.text}
    return row.with_changes(**{name: text for name, text in texts.items() if getattr(row, name).strip()})
