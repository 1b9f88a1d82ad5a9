"""How many held-out questions a student answers right: what a training may be stopped by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.compressors.catalogue import build
from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.adapted import mixed_precision, plain_model
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.rows import Row

# Enough to order two states of one training, few enough for an evaluation every some steps.
MAX_ROWS = 64
BATCH_ROWS = 16


def heldout_quality(trainer: Trainer, rows: Sequence[Row], tokenizer: Any, max_new_tokens: int) -> float:
    """Return the share of the first `MAX_ROWS` checkable rows answered right, in [0, 1].

    Choices are ranked by mean log-probability a token; other answers are decoded greedily and go through the row's verifier.
    """
    model = plain_model(trainer.accelerator.unwrap_model(trainer.student).model).eval()
    runner = TorchRunner(model)
    with mixed_precision(model):
        return share_right(runner, list(rows)[:MAX_ROWS], tokenizer, max_new_tokens)


def share_right(runner: TorchRunner, rows: Sequence[Row], tokenizer: Any, max_new_tokens: int) -> float:
    """Return the share of checkable rows that a model answers right, in [0, 1], as `heldout_quality` does."""
    right = sum(_is_choice_right(runner, tokenizer, row) for row in rows if row.choices)
    right += _num_verified(runner, tokenizer, [row for row in rows if not row.choices], max_new_tokens)
    return right / len(rows)


def _is_choice_right(runner: TorchRunner, tokenizer: Any, row: Row) -> bool:
    prompt = row_prompt(tokenizer, row)
    pairs = [(prompt, tokenizer(choice, add_special_tokens=False).input_ids) for choice in row.choices]
    scores = continuation_likelihoods(runner, pairs, batch_size=len(pairs))
    means = [score.logprob_nats / max(score.num_tokens, 1) for score in scores]
    return means.index(max(means)) == row.answer_index


def _num_verified(runner: TorchRunner, tokenizer: Any, rows: Sequence[Row], max_new_tokens: int) -> int:
    stop_ids = stop_token_ids(tokenizer, runner.model.generation_config)
    num_right = 0
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        prompts = [row_prompt(tokenizer, row) for row in part]
        written = decode(runner, prompts, max_new_tokens=max_new_tokens, stop_ids=stop_ids)
        for row, generation in zip(part, written, strict=True):
            text = tokenizer.decode(generation.token_ids, skip_special_tokens=True)
            verdict = build(ANSWER_CHECKS, row.verifier)(text, row.reference or row.answer, row.choices)
            num_right += verdict is None
    return num_right
