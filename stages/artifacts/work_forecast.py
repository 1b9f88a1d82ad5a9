"""How much work a stage will have, in FLOPs and rows, from its config and the facts of its inputs: what `attar plan` makes minutes of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attar.registry.artifacts.handles import Facts
from attar.stages.finetune.schedule_config import ScheduleConfig

# Of a row, question and answer; what a stage reads is counted when it is there, and no plan waits for that.
TOKENS_PER_ROW = 200.0
# A plan counts the rows of a file up to this size; more would keep it waiting.
MAX_COUNTED_BYTES = 64 * 2**20
# Each token is multiplied with each weight, two FLOPs a multiply-add.
FORWARD = 2.0


def size_of_file(path: Path, max_rows: int) -> tuple[int, float]:
    """Return (lines that are not blank, at most `max_rows` where it is not 0; bytes). A file too large to be counted in a plan has `max_rows`."""
    num_bytes = path.stat().st_size if path.is_file() else 0
    if num_bytes > MAX_COUNTED_BYTES or not num_bytes:
        return max_rows, float(num_bytes)
    with path.open("rb") as stream:
        num_lines = sum(not line.isspace() for line in stream)
    return min(num_lines, max_rows or num_lines), float(num_bytes)


def num_rows_of(data: Sequence[Facts]) -> float:
    """Return the rows of all data sets; 0 as soon as those of one are not known."""
    counts = [float(facts.get("num_rows", 0)) for facts in data]
    return sum(counts) if all(counts) else 0.0


def asked_of(tasks: Sequence[Facts], max_rows: int) -> float:
    """Return the rows that are asked, at most `max_rows` of each data set where it is not 0; 0 as soon as those of one are not known."""
    counts = [float(facts.get("num_rows", 0)) for facts in tasks]
    return sum(min(count, max_rows or count) for count in counts) if all(counts) else 0.0


def rows_alike(data: Facts) -> Facts:
    """Return the fact of how many rows data has, for what is made of it row by row; nothing where that is not known."""
    return {"num_rows": data["num_rows"]} if data.get("num_rows") else {}


def training_flops(
    schedule: ScheduleConfig,
    student: Facts,
    data: Sequence[Facts],
    *,
    live: Sequence[Facts] = (),
    is_frozen: bool = True,
    is_rolled_out: bool = False,
) -> float:
    """Return the FLOPs of a training with its looks at held-out rows; 0: not known.

    A step reads its tokens forward and backward; the gradients of the weights themselves, a third of it, fall away where they are
    frozen. Models that run along (`live`) read them too, and what is rolled out is written first. A look reads the held-out rows.
    """
    num_parameters, num_live = float(student.get("num_parameters", 0)), _parameters(live)
    if live and not num_live:
        return 0.0
    num_rows = num_rows_of(data)
    num_heldout = sum(float(facts.get("num_heldout", 0)) for facts in data)
    num_tokens = (num_rows - num_heldout) * TOKENS_PER_ROW * schedule.num_epochs
    if schedule.max_steps:
        limit = float(schedule.max_steps * schedule.tokens_per_step)
        num_tokens = min(num_tokens, limit) if num_rows else limit
    num_steps = -(-num_tokens // schedule.tokens_per_step)
    num_looks = 1.0 + num_steps // schedule.eval_every
    passes = 2.0 if is_frozen else 3.0
    trained = num_tokens * (num_parameters * (passes + is_rolled_out) + num_live)
    return FORWARD * (trained + num_looks * num_heldout * TOKENS_PER_ROW * (num_parameters + num_live))


def comparison_flops(models: Sequence[Facts], num_tokens: float) -> float:
    """Return the FLOPs of reading so many tokens with each model; 0: not known."""
    return FORWARD * _parameters(models) * num_tokens


def _parameters(models: Sequence[Facts]) -> float:
    counts = [float(facts.get("num_parameters", 0)) for facts in models]
    return sum(counts) if all(counts) else 0.0
