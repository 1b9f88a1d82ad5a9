"""Calibration texts: the training rows of a data set as token ids, as the model will meet them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attar.compressors.data.prompts import encoded, first_tokens
from attar.compressors.models.slots import pad_right
from attar.compressors.prune.depth.calibration import Sample
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt
from attar.stages.artifacts.dataset.rows import Row, read_rows, split_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.runtime.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def training_samples(
    model_folder: str | Path, data: DatasetArtifact, num_samples: int, max_tokens: int
) -> list[list[int]]:
    """Return the token ids of `calibration_samples`."""
    return [sample.ids for sample in calibration_samples(model_folder, data, num_samples, max_tokens)]


def heldout_samples(
    model_folder: str | Path, data: Sequence[DatasetArtifact], num_samples: int, max_tokens: int
) -> list[list[int]]:
    """Return the token ids of rows that nothing is fitted on, an equal share of each data set. Empty where none has any."""
    tokenizer, samples = load_tokenizer(Path(model_folder)), []
    for dataset in data:
        rows = split_rows(read_rows(dataset.path / "rows.jsonl"), "heldout")
        for row in rows[: max(1, num_samples // len(data))]:
            prompt, answer = _tokens(tokenizer, row)
            samples.append([*first_tokens(tokenizer), *prompt, *answer][:max_tokens])
    return [ids for ids in samples if len(ids) > 1]


def mixed_samples(
    model_folder: str | Path, data: Sequence[DatasetArtifact], num_samples: int, max_tokens: int
) -> list[list[int]]:
    """Return `training_samples` of several data sets, an equal share of each, the shortest of all first."""
    shares = [num_samples // len(data) + (index < num_samples % len(data)) for index in range(len(data))]
    samples = [
        ids
        for dataset, share in zip(data, shares, strict=True)
        if share
        for ids in training_samples(model_folder, dataset, share, max_tokens)
    ]
    return sorted(samples, key=len)


def calibration_samples(
    model_folder: str | Path, data: DatasetArtifact, num_samples: int, max_tokens: int, *, prepend_bos: bool = False
) -> list[Sample]:
    """Return at most `num_samples` training rows as token ids, each cut at `max_tokens`, shortest first.

    A question goes through the chat template, with its answer behind it; a text row is cut into pieces of `max_tokens`.
    Each begins with what the tokenizer itself puts first; `prepend_bos` puts its BOS there where it puts nothing. Raises ValueError
    when the data set has no training rows, its text is shorter than one piece, or the tokenizer has no first token to prepend.
    """
    tokenizer = load_tokenizer(Path(model_folder))
    if prepend_bos and tokenizer.bos_token_id is None:
        raise ValueError("prepend_bos is true, but the tokenizer has no beginning-of-sequence token; accepted: false")
    rows = split_rows(read_rows(data.path / "rows.jsonl"), "train")
    bos = first_tokens(tokenizer) or ([tokenizer.bos_token_id] if prepend_bos else [])
    samples: list[Sample] = []
    for row in rows:
        prompt, answer = _tokens(tokenizer, row)
        samples.extend(_pieces([*prompt, *answer], len(prompt), max_tokens, bos, row))
        if len(samples) >= num_samples:
            break
    samples = [sample for sample in samples if len(sample.ids) > 1][:num_samples]
    if not samples:
        raise ValueError("the data set has no training rows to calibrate on")
    num_tokens = sum(len(sample.ids) for sample in samples)
    if all(row.text for row in rows) and num_tokens < max_tokens and len(samples) < num_samples:
        raise ValueError(
            f"the calibration text has {num_tokens} tokens, less than one piece of max_tokens = {max_tokens}; "
            "give more text or lower max_tokens"
        )
    return sorted(samples, key=lambda sample: len(sample.ids))


def run_through(
    model: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    batch_size: int,
    update: Callable[[PreTrainedModel, Tensor, Tensor], None],
    label: str,
) -> None:
    """Give `update` the model and every batch of samples (input ids, attention mask, right-padded), with a progress bar."""
    counter = bar(label, sum(map(len, samples)), "tokens")
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        update(model, *pad_right(batch, model.device))
        counter.advance(sum(map(len, batch)))


def exact_tokens(tokenizer: Any, row: Row) -> tuple[list[int], list[int]]:
    """Return (prompt, answer with the token that ends it): those on record where a model wrote or scored the row."""
    return row.prompt_ids or row_prompt(tokenizer, row), row.answer_ids or row_answer(tokenizer, row)


def _pieces(ids: list[int], answer_start: int, max_tokens: int, bos: list[int], row: Row) -> list[Sample]:
    """Cut one row; the pieces of a text after its first are answer (what the model is to write) from their first token on."""
    samples = []
    body = max_tokens - len(bos)
    for start in range(0, len(ids) if row.text else min(len(ids), 1), body):
        piece, answer_at = ids[start : start + body], max(0, answer_start - start)
        if piece[: len(bos)] != bos:
            piece, answer_at = [*bos, *piece], answer_at + (len(bos) if answer_at else 0)
        samples.append(Sample(piece, answer_at))
    return samples


def _tokens(tokenizer: Any, row: Row) -> tuple[list[int], list[int]]:
    """Return (prompt, answer); a plain text is all answer."""
    if row.text:
        return row.prompt_ids, row.answer_ids or encoded(tokenizer, row.text)[len(first_tokens(tokenizer)) :]
    if row.reply:
        return exact_tokens(tokenizer, row)
    answer = row.answer_ids or tokenizer(row.answer, add_special_tokens=False).input_ids
    return row_prompt(tokenizer, row), answer
