"""Training of causal models that fill masks: how texts become batches with hidden tokens, drawn anew at each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attar.compressors.distill.examples.masked import HiddenView, hidden_views, hide
from attar.compressors.distill.examples.packing import Batch, Example, batches, collate
from attar.compressors.distill.loop.modality import CausalText, Means
from attar.compressors.distill.losses.objective import Observed
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.distill.teachers.student import Student
from attar.compressors.masked.form import MaskedForm
from attar.compressors.masked.hiding import HidingRule
from attar.compressors.models.adapted import mixed_precision

# Stands for a step where none is: held-out rows are hidden by the same draw at every look.
NO_STEP = -1


@dataclass(frozen=True)
class MaskedText:
    """Texts under a model that fills masks. A position is a hidden token, its view the distribution of that token.

    A draw depends on seed, step and example alone: not on the micro-batches, nor on what was drawn before an interruption.
    """

    form: MaskedForm
    rule: HidingRule
    seed: int
    step: int = NO_STEP
    # as of a causal model: what is learned, and where its logits lie, stands in the batch
    views: ClassVar[CausalText] = CausalText(is_packed=False)

    def at(self, step: int) -> MaskedText:
        return replace(self, step=step)

    def batches(
        self, examples: Sequence[Example], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[Batch]:
        drawn = [view for index in order for view in self._drawn(examples[index], index)]
        texts = [view.example for view in drawn]
        for batch in batches(texts, tokens_per_batch=tokens_per_batch, order=range(len(texts)), is_packed=False):
            yield hide(batch, [drawn[index] for index, _, _ in batch.locations], self.form)

    def observed(
        self, student: Student, output: Tensor, batch: Batch, teachers: Teachers, means: Means
    ) -> dict[str, Observed]:
        return self.views.observed(student, output, batch, teachers, means)

    def entropies(self, batch: Batch, teachers: Teachers) -> TokenStats:
        return self.views.entropies(batch, teachers)

    def _drawn(self, example: Example, index: int) -> list[HiddenView]:
        seed = ((self.seed * 1_000_003 + self.step + 1) * 1_000_003 + index) % 2**63
        generator = torch.Generator().manual_seed(seed)
        return hidden_views(example, self.form, self.rule, index, generator)


@torch.no_grad()
def sees_both_sides(student: Student, form: MaskedForm) -> bool:
    """Say whether a hidden token is told by the token behind it. A family that carries a state from left to right heeds no mask."""
    probe = replace(form, block_size=3)
    hidden = torch.tensor([False, True, False])
    outputs = []
    for last in (5, 6):
        example = Example([1, 2], [3, 4, last])
        batch = hide(collate([example], [0], is_packed=False), [HiddenView(example, hidden)], probe)
        with mixed_precision(student):
            outputs.append(student(batch))
    return bool((outputs[0] - outputs[1]).abs().max() > 0)
