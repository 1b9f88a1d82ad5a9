"""The texts that a vocabulary is cut to: rows as they are read and learned, and the chat template's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attar.compressors.data.prompts import rendered
from attar.compressors.prune.vocabulary.scripts import letters_by_script, words_of
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.dialogues import ROLES, turn_text
from attar.stages.artifacts.dataset.prompts import choice_context, row_messages, row_prompt_text
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.runtime.progress import bar

TEXTS_AT_ONCE = 256
# Rows, from all over the data, whose letters are counted.
NUM_SAMPLED = 4096
# Chat rows that show what the template writes around them.
NUM_SHOWN = 32
# A corpus with fewer of its letters in the template's script is taken to be in another language.
MIN_SHARE = 0.01
# What a template is asked to write, so that all of its tokens are seen: without content, which would be no token of its own.
PROBES = (("user",), ("system", "user"), ("user", "assistant"), ("system", "user", "assistant", "user"))


@dataclass(frozen=True)
class Corpus:
    """Texts that choose the tokens and texts that are held out. `contents`: what some rows say, without the template."""

    texts: list[str]
    heldout: list[str]
    contents: list[str]
    # what the template wrote around the first chat rows; around a bare question where there are none
    around: list[str]

    @staticmethod
    def read(data: Sequence[DatasetArtifact], tokenizer: Any) -> Corpus:
        """Read the rows as every stage reads them. Raises ValueError when no row that may choose has a letter, digit or sign."""
        corpus = Corpus([], [], [], [])
        rows = [row for dataset in data for row in read_rows(dataset.path / "rows.jsonl")]
        counter = bar("reading rows", len(rows), "rows")
        step = len(rows) // NUM_SAMPLED + 1
        for number, row in enumerate(rows):
            texts = corpus.heldout if row.split == "heldout" else corpus.texts
            texts += [text for text in row_texts(tokenizer, row) if text.strip()]
            contents = list(_contents(row))
            if number % step == 0:  # what it is written in shows in some
                corpus.contents.extend(contents)
            if row.question and len(corpus.around) < NUM_SHOWN and tokenizer.chat_template:
                corpus.around.append(_without(row_prompt_text(tokenizer, row), contents))
            counter.advance()
        if not corpus.texts:
            raise ValueError(
                "data: the corpus is empty: no row outside the held-out ones has a text; give rows with text"
            )
        return corpus


def row_texts(tokenizer: Any, row: Row) -> Iterator[str]:
    """Yield what is encoded of a row: text, prompt, answers and the whole conversation, choices behind their question."""
    if row.text:
        yield row.text
    if row.question:
        try:
            yield row_prompt_text(tokenizer, row)
            if tokenizer.chat_template:
                yield rendered(tokenizer, [*row_messages(row), _reply(row)], row.tools, is_open=False)
        except ValueError as error:
            raise ValueError(f"row {row.id}: {error}") from error
        yield from dict.fromkeys((row.answer, row.reference, row.rewrite))
    yield from (f"{choice_context(row)} {choice}" for choice in row.choices)


def template_texts(tokenizer: Any) -> list[str]:
    """Return what the chat template writes of its own: turns without content, open and closed. Nothing without a template."""
    if not tokenizer.chat_template:
        return []
    texts = []
    for roles in PROBES:
        for is_open in (True, False):
            try:
                texts.append(
                    rendered(tokenizer, [{"role": role, "content": ""} for role in roles], (), is_open=is_open)
                )
            except ValueError:  # some take no system turn, or no empty one
                continue
    return texts


def count_tokens(tokenizer: Any, texts: Sequence[str], label: str) -> Counter[int]:
    """Return how often each id stands in the texts."""
    counts: Counter[int] = Counter()
    counter = bar(label, len(texts), "texts")
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        batch = list(texts[start : start + TEXTS_AT_ONCE])
        for ids in tokenizer(batch, add_special_tokens=False).input_ids:
            counts.update(ids)
        counter.advance(len(batch))
    return counts


def refuse_other_language(corpus: Corpus, tokenizer: Any, keep_scripts: Sequence[str]) -> None:
    """Raise ValueError when the template writes words in a script that the corpus does not have.

    The rows would then be answered in a language whose words fell apart into bytes; within one script nobody can tell.
    """
    own = _own_words(corpus.around or template_texts(tokenizer), tokenizer)
    template, letters = letters_by_script(own), letters_by_script(corpus.contents)
    if not template or not letters:
        return
    script = template.most_common(1)[0][0]
    share = letters[script] / letters.total()
    if share < MIN_SHARE and script not in keep_scripts:
        other = letters.most_common(1)[0][0]
        raise ValueError(
            f"data: {share:.1%} of the corpus's letters are {script} and most are {other}, but the chat template writes {script} "
            f"({' '.join(own[:4])!r}): another language than the template's; accepted: rows in both, or keep_scripts: [{script}]"
        )


def _own_words(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Return the words that a template writes, without marks of turns and names of roles, which are no language."""
    marks = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)
    words = dict.fromkeys(word for text in texts for word in words_of(_without(text, marks)))
    return [word for word in words if word.lower() not in ROLES]


def _without(text: str, parts: Sequence[str]) -> str:
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part.strip(), " ") if part.strip() else text
    return text


def _contents(row: Row) -> Iterator[str]:
    yield from (part for part in (row.text, row.answer, *row.choices) if part)
    if row.question:
        yield from (turn_text(message) for message in row_messages(row))


def _reply(row: Row) -> dict[str, Any]:
    return row.reply or {"role": "assistant", "content": row.answer}
