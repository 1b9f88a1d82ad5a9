"""What `compare` has its models read: windows of text, questions with their choices or reference answers, the original's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.compressors.data.prompts import stop_token_ids, text_windows
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.measured_data import plain_text
from attar.stages.artifacts.dataset.prompts import row_prompt, row_reference
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.compare.config import CompareConfig
from attar.stages.runtime.progress import bar


def own_answers(config: CompareConfig, original: TorchRunner, rows: Sequence[Row], tokenizer: Any) -> list[Pair]:
    """Return (prompt, what the original answers greedily), shortest prompt first."""
    stop_ids = stop_token_ids(tokenizer, original.model.generation_config)
    prompts = sorted((row_prompt(tokenizer, row) for row in rows), key=len)
    counter = bar("the original answers", len(prompts), "questions")
    pairs: list[Pair] = []
    for start in range(0, len(prompts), 4 * config.batch_size):
        part = prompts[start : start + 4 * config.batch_size]
        written = decode(original, part, max_new_tokens=config.max_new_tokens, stop_ids=stop_ids)
        pairs += [(prompt, answer.token_ids) for prompt, answer in zip(part, written, strict=True)]
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
