"""Forecast a stage's work, in FLOPs and rows, from its config and its inputs' facts. `attar plan` makes minutes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attar.registry.artifacts.facts import Facts

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


def num_questions_of(tasks: Sequence[Facts], max_rows: int) -> float:
    """Return the number of questions, at most `max_rows` of each data set where it is not 0. 0 as soon as those of one are not known."""
    counts = [float(facts.get("num_rows", 0)) for facts in tasks]
    return sum(min(count, max_rows or count) for count in counts) if all(counts) else 0.0


def rows_alike(data: Facts) -> Facts:
    """Return the fact of how many rows data has, for what is made of it row by row. Nothing where that is not known."""
    return {"num_rows": data["num_rows"]} if data.get("num_rows") else {}


def comparison_flops(models: Sequence[Facts], num_tokens: float) -> float:
    """Return the FLOPs of reading so many tokens with each model; 0: not known."""
    return FORWARD * parameters_of(models) * num_tokens


def parameters_of(models: Sequence[Facts]) -> float:
    """Return the parameters of all models; 0 as soon as those of one are not known."""
    counts = [float(facts.get("num_parameters", 0)) for facts in models]
    return sum(counts) if all(counts) else 0.0
