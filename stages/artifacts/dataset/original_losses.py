"""How likely a data set's answers are to the original model. Of the rewrites and of the references, in nats a token, lower is likelier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.runner import TorchRunner
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt, row_reference
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.artifacts.model.folder import load_model, load_tokenizer

AnyRow = TypeVar("AnyRow")
BATCH_SIZE = 8
RECORDED = "recorded while writing: rewrites with the reference in view, references without, so the two do not compare; a lower bound"
# Enough for a mean within some hundredths of a nat
NUM_SCORED_ROWS = 256


@dataclass(frozen=True)
class Losses:
    """Mean negative log-likelihood in nats a token, None where there was no such row, and the rows behind each."""

    # where the numbers come from, in words
    source: str
    rewritten_nats: float | None
    num_rewritten: int
    reference_nats: float | None
    num_reference: int

    @property
    def is_recorded(self) -> bool:
        """Whether it was read off recorded candidates, and not off the model with the question alone in view."""
        return self.source == RECORDED


def losses_under_model(
    folder: Path, rows: Sequence[Row], num_rows: int, dtype: torch.dtype, device: torch.device
) -> Losses:
    """Score rewrites and, for the same questions, the references they replaced; without rewrites, the references of any rows.

    The question alone is in view, as in training, never the reference.
    """
    tokenizer = load_tokenizer(folder)
    runner = TorchRunner(load_model(folder, dtype, device))
    questions = [row for row in rows if row.question]
    rewritten = spread([row for row in questions if row.source == "rewrite"], num_rows)

    def mean(pairs: Sequence[tuple[Row, Sequence[int]]]) -> float | None:
        scored = continuation_likelihoods(
            runner,
            [(row_prompt(tokenizer, row), answer) for row, answer in pairs],
            batch_size=BATCH_SIZE,
        )
        num_tokens = sum(score.num_tokens for score in scored)
        return -sum(score.logprob_nats for score in scored) / num_tokens if num_tokens else None

    referred = rewritten or spread(questions, num_rows)
    ours = [(row, row.answer_ids or row_answer(tokenizer, row)) for row in rewritten]
    references = [(row, row_reference(tokenizer, row)) for row in referred]
    source = "the model, on the same questions" if rewritten else "the model"
    return Losses(source, mean(ours), len(ours), mean(references), len(references))


def recorded_losses(dataset: Path, rows: Sequence[Row], num_rows: int) -> Losses | None:
    """Read the losses of rewrites, and of the rows that kept their reference, off the recorded candidates; None without any.

    An answer's token that is not among them counts as the least likely of them: the loss is a lower bound. A rewrite was recorded as it
    was written, with the reference in view, a reference with the question alone: the two numbers do not compare.
    """
    record = TeacherRecord(dataset)

    def mean(source: str) -> tuple[float | None, int]:
        chosen = spread([row for row in rows if row.recorded_in and row.source == source], num_rows)
        total, num_tokens = 0.0, 0
        for row in chosen:
            ids, logprobs = record.of(row) or (torch.empty(0, 1), torch.empty(0, 1))
            is_own = ids == torch.tensor(row.answer_ids)[:, None]
            own = torch.where(is_own, logprobs, -torch.inf).amax(dim=-1)
            total -= float(torch.maximum(own, logprobs.amin(dim=-1)).sum())
            num_tokens += len(own)
        return (total / num_tokens if num_tokens else None), len(chosen)

    rewritten, num_rewritten = mean("rewrite")
    reference, num_reference = mean("reference")
    if rewritten is None and reference is None:
        return None
    return Losses(RECORDED, rewritten, num_rewritten, reference, num_reference)


def spread(rows: Sequence[AnyRow], num_rows: int) -> list[AnyRow]:
    """Return at most `num_rows` rows, evenly spread over all. No kind is favoured by the order."""
    if len(rows) <= num_rows:
        return list(rows)
    return [rows[index * len(rows) // num_rows] for index in range(num_rows)]
