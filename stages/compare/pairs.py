"""What `compare` has its models read: windows of text, questions with their choices or reference answers, the original's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.compressors.data.prompts import choice_tokens, encoded, stop_token_ids, text_windows
from attar.compressors.measure.choices import choice_likelihoods
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.measured_data import plain_text
from attar.stages.artifacts.dataset.prompts import choice_context, row_prompt, row_reference
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.compare.config import CompareConfig
from attar.stages.runtime.progress import bar


def right_choices(
    config: CompareConfig, runner: TorchRunner, rows: Sequence[Row], tokenizer: Any, name: str
) -> list[float]:
    """Return 1 for each question whose right choice is the likeliest by its length-normalised text, else 0."""
    questions = [
        (
            encoded(tokenizer, choice_context(row)),
            [choice_tokens(tokenizer, choice_context(row), choice) for choice in row.choices],
        )
        for row in rows
    ]
    counter = bar(f"choosing in {name}", len(rows), "questions")
    scored = choice_likelihoods(runner, questions, batch_size=4 * config.batch_size, on_scored=counter.advance)
    right = []
    for row, logprobs in zip(rows, scored, strict=True):
        scores = [logprob / len(choice) for choice, logprob in zip(row.choices, logprobs, strict=True)]
        right.append(float(scores.index(max(scores)) == row.answer_index))
    return right


def own_answers(config: CompareConfig, original: TorchRunner, rows: Sequence[Row], tokenizer: Any) -> list[Pair]:
    """Return (prompt, what the original answers greedily), shortest prompt first."""
    stop_ids = stop_token_ids(tokenizer, original.model.generation_config)
    prompts = sorted((row_prompt(tokenizer, row) for row in rows), key=len)
    counter = bar("the original answers", len(prompts), "questions")
    pairs: list[Pair] = []
    for start in range(0, len(prompts), 4 * config.batch_size):
        part = prompts[start : start + 4 * config.batch_size]
        written = decode(original, part, max_new_tokens=config.max_new_tokens, stop_ids=stop_ids)
        pairs += [(prompt, one.token_ids) for prompt, one in zip(part, written, strict=True)]
        counter.advance(len(part))
    return pairs


def windows(config: CompareConfig, data: DatasetArtifact, tokenizer: Any) -> list[Pair]:
    """Return plain text in windows of `max_tokens`, each (first token, the others)."""
    windows = text_windows(tokenizer, plain_text(data), config.max_tokens, config.max_text_tokens)
    return [(context, window) for context, window in windows if window]


def gold(config: CompareConfig, row: Row, tokenizer: Any) -> Pair:
    """Return (question as a chat prompt, its reference answer with the token that ends it)."""
    *answer, end = row_reference(tokenizer, row)
    return row_prompt(tokenizer, row), [*answer[: config.max_tokens], end]
