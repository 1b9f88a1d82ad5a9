"""The loss of one optimizer step in parts: what all its micro-batches and processes share is counted first, then each part is summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from attar.compressors.distill.examples.packing import Batch
from attar.compressors.distill.losses.chunkwise import ChunkwiseDistil
from attar.compressors.distill.losses.composite import Distil, ListwiseDistil
from attar.compressors.distill.losses.objectives import Objective, Targets
from attar.compressors.distill.losses.reduction import Parties, Reduction, Sums
from attar.compressors.distill.losses.statistics import teacher_entropies
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.losses.weights.sample_weights import is_routed
from attar.compressors.distill.losses.weights.token_weights import EntropyWeight
from attar.compressors.distill.teachers.parties import Party
from attar.compressors.distill.teachers.student import Student


@dataclass
class Spoken:
    """A batch, and what the parties make of it, asked for once: before the student runs, whose weights they may borrow."""

    batch: Batch
    speak: Callable[[Batch], Parties]

    @cached_property
    def parties(self) -> Parties:
        """Teacher, past self and anchor on this batch."""
        return self.speak(self.batch)

    def targets(self, device: torch.device, means: Mapping[tuple[object, str], float]) -> Targets:
        """Return what the batch's tokens should become; a live teacher stands before a recorded one."""
        batch = self.batch
        recorded = (batch.teacher_ids, batch.teacher_logprobs, batch.has_teacher)
        if self.parties.teacher is not None:
            recorded = (None, None, None)
        parts = [None if part is None else part.to(device) for part in recorded]
        stats = TokenStats(batch.sequences.to(device), batch.facts, means=means, has_recorded=parts[2])
        return replace(Targets(batch.next_ids.to(device), *parts), stats=stats)  # type: ignore[arg-type]


def speak(parties: Mapping[ViewName, Party], student: Student) -> Callable[[Batch], Parties]:
    """Return what asks every party about a batch."""
    return lambda batch: Parties(**{name: party.speak(student, batch) for name, party in parties.items()})


@dataclass(frozen=True)
class StepLoss:
    """A step's objectives with their denominators and means over all of its tokens, of every micro-batch and process."""

    reduction: Reduction
    num_tokens: dict[str, int]
    weight_means: Mapping[tuple[object, str], float]

    @staticmethod
    def of(
        reduction: Reduction,
        spoken: Callable[[], Iterable[Spoken]],
        accelerator: Accelerator | None,
        *,
        has_teacher: bool,
        is_counted: bool = True,
    ) -> StepLoss:
        """Count the step. `has_teacher`: a live one. Without `is_counted` this process's batches are someone else's."""
        names = list(reduction.objectives)
        counts = dict.fromkeys(names, 0)
        shares = dict.fromkeys(_meaned(reduction), (0.0, 0.0))
        for one in spoken() if is_counted else ():
            for name in names:
                counts[name] += num_spoken(reduction.objectives[name], one.batch, has_teacher)
            for key, (total, count) in _sums_for_means(list(shares), one, reduction.tokens_per_chunk):
                shares[key] = (shares[key][0] + total, shares[key][1] + count)
        flat = [*map(float, counts.values()), *(value for pair in shares.values() for value in pair)]
        flat = over_processes(flat, accelerator)
        num_tokens = {name: int(value) for name, value in zip(names, flat, strict=False)}
        pairs = zip(flat[len(names) :: 2], flat[len(names) + 1 :: 2], strict=True)
        means = {key: total / max(count, 1.0) for key, (total, count) in zip(shares, pairs, strict=True)}
        return StepLoss(reduction, num_tokens, means)

    def loss(self, module: nn.Module, student: Student, one: Spoken) -> tuple[Tensor, Sums]:
        """Return the part of the step's loss that one batch has, and its sums; see Reduction.loss.

        `module` is the student as accelerate wraps it, which several processes must run through.
        """
        parties = one.parties
        hidden = module(one.batch)
        targets = one.targets(hidden.device, self.weight_means)
        return self.reduction.loss(
            hidden,
            student.head,
            targets,
            self.num_tokens,
            parties.teacher,
            parties.past,
            parties.anchor,
            student.projections,
        )

    def means(self, sums: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
        """Return the loss of each objective in nats a token from this process's sums."""
        totals = over_processes(list(sums.values()), accelerator)
        return {name: total / max(self.num_tokens[name], 1) for name, total in zip(sums, totals, strict=True)}


def num_spoken(objective: Objective, batch: Batch, has_live_teacher: bool) -> int:
    """Return how many tokens an objective speaks about: all, those with a recorded teacher, one a group, a chunk, or a sequence.

    A route does not lessen it: what does not go one way goes the other, under the same denominator.
    """
    if isinstance(objective, ChunkwiseDistil):
        return sum(len(one.chunks.ends) for one in batch.facts if one.chunks is not None)
    if isinstance(objective, ListwiseDistil):
        return len({one.group for one in batch.facts})
    is_whole = not objective.uses_teacher or has_live_teacher
    if isinstance(objective, Distil) and objective.reduction == "sequence":
        if not is_whole and batch.has_teacher is None:
            return 0
        spoken = batch.sequences if is_whole or batch.has_teacher is None else batch.sequences[batch.has_teacher]
        return len(spoken.unique())
    if is_whole:
        return len(batch.next_ids)
    return 0 if batch.has_teacher is None else int(batch.has_teacher.sum())


def over_processes(values: list[float], accelerator: Accelerator | None) -> list[float]:
    """Return sums over all processes; without an accelerator this one stands alone."""
    if accelerator is None or accelerator.num_processes == 1 or not values:
        return values
    total = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum")
    return total.tolist()  # type: ignore[union-attr]


def _meaned(reduction: Reduction) -> list[tuple[object, str]]:
    """Return the weights that are divided by their mean over the step, each with its route."""
    found = []
    for one in reduction.objectives.values():
        if isinstance(one, Distil):
            weights = [*one.token_weights, *([one.sample_weight] if one.sample_weight else [])]
            found += [(weight, one.route) for weight in weights if weight.is_mean_one]
    return list(dict.fromkeys(found))


def _sums_for_means(
    keys: list[tuple[object, str]], one: Spoken, size: int
) -> list[tuple[tuple[object, str], tuple[float, float]]]:
    """Return (sum, count) of each weight over the routed tokens, or sequences, of one batch."""
    found = []
    stats: TokenStats | None = None
    for weight, route in keys:
        routed = [float(is_routed(fact, route)) for fact in one.batch.facts]  # type: ignore[arg-type]
        if isinstance(weight, EntropyWeight):
            if stats is None:
                targets = one.targets(one.batch.next_ids.device, {})
                stats = teacher_entropies(
                    targets, size, lambda tokens, known=targets: one.parties.spoken(known, tokens)
                )
            kept = stats.of_samples(routed)
            found.append(((weight, route), (float((weight.raw(stats) * kept).sum()), float(kept.sum()))))
        else:
            values = weight(one.batch.facts, [])  # type: ignore[operator]
            total = sum(value * keep for value, keep in zip(values, routed, strict=True))
            found.append(((weight, route), (total, sum(routed))))
    return found
