"""The answers of two models to the same questions, in pairs. However many each was asked, and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attar.registry.artifacts.fingerprint import digest
from attar.stages.artifacts.dataset.rows import Row

ID_LENGTH = 16


def question_ids(rows: Sequence[Row]) -> list[str]:
    """Return an id a question, by what is asked and what is right; the second of two alike has another."""
    ids: list[str] = []
    counts: dict[str, int] = {}
    for row in rows:
        content = digest([row.question, row.choices, row.reference or row.answer])[:ID_LENGTH]
        counts[content] = counts.get(content, 0) + 1
        ids.append(content if counts[content] == 1 else f"{content}-{counts[content]}")
    return ids


def paired_right(
    candidate: Mapping[str, Any], baseline: Mapping[str, Any], task: str
) -> tuple[list[float], list[float]] | None:
    """Return who was right (1) or wrong (0), of candidate and baseline, on the candidate's questions in its order. None where these are no pairs."""
    first, second = candidate.get("right", {}).get(task), baseline.get("right", {}).get(task)
    if not first or not second:
        return None
    ids = [evaluation.get("question_ids", {}).get(task) for evaluation in (candidate, baseline)]
    if all(ids):
        by_id = dict(zip(ids[1], second, strict=True))
        return (first, [by_id[name] for name in ids[0]]) if by_id.keys() >= set(ids[0]) else None
    # of an earlier version, or a task of lm-eval's
    digests = [evaluation.get("asked", {}).get(task) for evaluation in (candidate, baseline)]
    return (first, second) if digests[0] == digests[1] and len(first) == len(second) else None


def all_pairs(
    candidate: Mapping[str, Any], baseline: Mapping[str, Any], names: Sequence[str]
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the pairs of each task. Raises ValueError for a task whose questions are not the same."""
    for name in names:
        pair = paired_right(candidate, baseline, name)
        if pair is None:
            raise ValueError(
                f"task {name!r}: candidate and baseline did not answer the same questions; evaluate both on the same data"
            )
        yield pair
