"""The pass before the losses. What weights and listwise losses must know of the whole batch, chunk by chunk, without gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.targets.target_heat import entropy_of
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.views import Targets, views_of
from attar.compressors.distill.losses.weights.token_weights import Statistic


@torch.no_grad()
def measured(
    objectives: Mapping[str, Objective],
    targets: Targets,
    size: int,
    logprobs: Callable[[slice], Float[Tensor, "n V"]],
    others: Callable[[slice], Targets],
) -> Targets:
    """Return the targets with the statistics that the objectives require. `others` gives a chunk's targets with live teachers."""
    wanted: frozenset[Statistic] = frozenset(
        name for objective in objectives.values() for name in objective.requires.statistics
    )
    if not wanted:
        return targets
    if targets.stats is None:
        raise ValueError("weights and listwise losses need to know the sequences of the tokens")
    required = [objective.requires.slopes for objective in objectives.values()]
    sources = list(dict.fromkeys(source for source in required if source is not None))
    parts: dict[object, list[Tensor]] = {}
    for start in range(0, len(targets.next_ids), size):
        tokens = slice(start, start + size)
        student = logprobs(tokens) if wanted - {"teacher_entropy"} else None
        chunk = others(tokens)
        for name, value in _of_chunk(wanted, student, chunk):
            parts.setdefault(name, []).append(value)
        for source in sources:
            if source.anchor is not None and student is not None:
                views = views_of(student, chunk, with_labels=True, needs_whole=True)
                own = source.anchor(views).gather(-1, chunk.next_ids[:, None]).squeeze(-1)
                parts.setdefault(source, []).append(own)
    columns = {name: torch.cat(chunks) for name, chunks in parts.items()}
    known = {name: columns[name] for name in wanted if name in columns}
    stats = replace(targets.stats, **known)  # type: ignore[arg-type]
    terms = {source: source.slopes(stats, columns.get(source)) for source in sources}
    return replace(targets, stats=replace(stats, listwise=terms))


@torch.no_grad()
def teacher_entropies(targets: Targets, size: int, others: Callable[[slice], Targets]) -> TokenStats:
    """Return the batch's statistics with the teacher's entropy alone: what a mean over the step is taken of."""
    assert targets.stats is not None, "batches know their sequences"
    parts = [_teacher_entropy(others(slice(start, start + size))) for start in range(0, len(targets.next_ids), size)]
    return replace(targets.stats, teacher_entropy=torch.cat(parts))


def _of_chunk(
    wanted: frozenset[Statistic], student: Float[Tensor, "n V"] | None, chunk: Targets
) -> list[tuple[Statistic, Tensor]]:
    known: list[tuple[Statistic, Tensor]] = []
    if "teacher_entropy" in wanted:
        known.append(("teacher_entropy", _teacher_entropy(chunk)))
    if student is None:
        return known
    if "student_entropy" in wanted:
        known.append(("student_entropy", entropy_of(student)))
    if "own_logprobs" in wanted:
        known.append(("own_logprobs", student.gather(-1, chunk.next_ids[:, None]).squeeze(-1)))
    if "is_first_choice" in wanted:
        known.append(("is_first_choice", student.argmax(dim=-1) == chunk.next_ids))
    return known


def _teacher_entropy(chunk: Targets) -> Float[Tensor, "n"]:
    if chunk.teacher_full is None:
        raise ValueError(
            "a token weight reads the teacher's entropy, which recorded candidates do not hold; use a live teacher"
        )
    return entropy_of(chunk.teacher_full)
