"""Calibration texts: the training rows of a data set as token ids, as the model will meet them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressors.self_data.prompts import chat_prompt
from registry.artifact import DatasetArtifact
from stages.model_folder import load_tokenizer
from stages.rows import Row, read_rows, split_rows


def training_samples(
    model_folder: str | Path, data: DatasetArtifact, num_samples: int, max_tokens: int
) -> list[list[int]]:
    """Return at most `num_samples` rows as token ids, each cut at `max_tokens`, shortest first.

    A question goes through the chat template, with its answer behind it; a text row is cut into pieces of `max_tokens`.
    Raises ValueError when the data set has no training rows.
    """
    tokenizer = load_tokenizer(Path(model_folder))
    samples: list[list[int]] = []
    for row in split_rows(read_rows(data.path / "rows.jsonl"), "train"):
        ids = _tokens(tokenizer, row)
        pieces = [ids[start : start + max_tokens] for start in range(0, len(ids), max_tokens)]
        samples.extend(pieces if row.text else pieces[:1])
        if len(samples) >= num_samples:
            break
    samples = [sample for sample in samples if len(sample) > 1][:num_samples]
    if not samples:
        raise ValueError("the data set has no training rows to calibrate on")
    return sorted(samples, key=len)


def _tokens(tokenizer: Any, row: Row) -> list[int]:
    if row.text:
        return [*row.prompt_ids, *row.answer_ids] or tokenizer(row.text).input_ids
    answer = row.answer_ids or tokenizer(row.answer, add_special_tokens=False).input_ids
    return [*chat_prompt(tokenizer, row.question), *answer]
