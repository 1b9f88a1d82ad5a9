"""Training-free repair of a narrowed part: the kept units take over, by least squares, what the removed ones contributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from attar.compressors.models.exits import by_input
from attar.compressors.models.paging import bring
from attar.compressors.prune.depth.scan import last_logits_only
from attar.compressors.prune.width.parts import Part, num_inputs
from attar.compressors.prune.width.scores import watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Refit:
    """Normal equations of some parts, summed as calibration text streams by.

    With a the inputs of a part's exit matrix W, split into kept and removed ones, minimise over M, a row for each kept input,
    ||a_removed W_removed - a_kept M||^2 + ridge * sum over kept inputs of mean(a_i^2) * ||M_i||^2, and add M to W_kept
    (the Nystrom form of https://arxiv.org/abs/2408.09632). The penalty is each input's own, since a few inputs are a thousand
    times larger than the rest. Memory is O(inputs^2) a part, whatever the number of tokens.
    """

    parts: Sequence[Part]
    num_tokens: int = 0
    _grams: dict[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> None:
        """Run one batch (right-padded) and add its tokens to the equations."""
        keep = attention_mask.bool()

        def see(index: int, inputs: Tensor) -> None:
            tokens = inputs.reshape(*keep.shape, -1)[keep].float()
            gram = tokens.T @ tokens
            self._grams[index] = self._grams[index].add_(gram) if index in self._grams else gram

        with watched(self.parts, see):
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        self.num_tokens += int(keep.sum())

    @torch.no_grad()
    def fold(self, index: int, target: Part, units: Int[Tensor, "U"], ridge: float) -> float:
        """Change the kept rows of the exit matrix of `target`, in place. The removed rows are still there and must be cut.

        `target` is the part of that index, or its copy in another dtype. Its equations are used up.

        Returns the squared contribution of the removed units that is left undone, as a fraction in [0, 1]; lower is better.
        """
        bring(target.block)
        gram = self._grams.pop(index).double()
        kept_columns = target.exit_columns(units.to(gram.device))
        is_removed = torch.ones(num_inputs(target.exit), dtype=torch.bool, device=gram.device)
        is_removed[kept_columns] = False
        weight = by_input(target.exit)
        lost = gram[:, is_removed] @ weight[is_removed].double()  # a' a_removed W_removed
        total = float((weight[is_removed].double() * lost[is_removed]).sum())
        own = gram[kept_columns][:, kept_columns]
        # an input that was never active has no equation: without a floor it would make the matrix singular
        diagonal = own.diagonal()
        penalty = ridge * diagonal.clamp(min=1e-6 * float(diagonal.mean()))
        update = torch.linalg.solve(own + penalty.diag(), lost[kept_columns])
        # ||r - a M||^2 = ||r||^2 - 2 <M, a'r> + <M, a'a M>
        left = total - 2.0 * float((update * lost[kept_columns]).sum()) + float((update * (own @ update)).sum())
        weight[kept_columns] += update.to(weight.dtype)
        return left / max(total, 1e-30)
