"""A compressor of demonstrations. A model's first blocks with learned queries turn any demonstrations into vectors for the frozen whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.models.adapted import put_before
from attar.compressors.models.blocks import decoder_blocks, only_blocks
from attar.compressors.models.runner import positions_of
from attar.compressors.models.slots import pad_left

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Compressor(nn.Module):
    """Demonstrations, then P queries, through the first blocks; what the queries have become, projected, are the vectors.

    The blocks are causal: a query sees all demonstrations, and no demonstration a query. https://arxiv.org/abs/2403.06914
    """

    def __init__(self, body: Any, table: nn.Module, num_vectors: int) -> None:
        super().__init__()
        self.body = body.float()
        self._table = [table]  # the frozen model's own: no weight of the compressor
        rows: Tensor = table.weight.detach()  # type: ignore[assignment]
        width, scale = rows.shape[1], float(rows.float().square().mean().sqrt())
        self.queries = nn.Parameter(scale * torch.randn(num_vectors, width))
        self.projection = nn.Linear(width, width, bias=False)
        self.shown: list[Sequence[int]] = []
        self.to(rows.device)
        with torch.no_grad():  # the first vectors are as long as the embedding's rows: others the model has never seen
            size = float(self._states([[]]).square().mean().sqrt().clamp(min=1e-6))
            self.projection.weight.copy_(torch.eye(width) * scale / size)

    def forward(self, groups: Int[Tensor, "N"]) -> Float[Tensor, "N P D"]:
        return self.compress([self.shown[index] for index in groups.tolist()])

    def show(self, shown: Sequence[Sequence[int]], table: nn.Module) -> None:
        """Take the demonstrations of each group."""
        self.shown = list(shown)

    def compress(self, shown: Sequence[Sequence[int]]) -> Float[Tensor, "N P D"]:
        """Return the vectors of each of these demonstrations, as many whatever their length."""
        return self.projection(self._states(shown))

    def _states(self, shown: Sequence[Sequence[int]]) -> Float[Tensor, "N P D"]:
        """Return what the queries are behind the last block. Padding lies before the demonstrations, where nothing sees it."""
        count, device = len(self.queries), self.queries.device
        ids, mask = pad_left(shown, device)
        mask = torch.cat([mask, mask.new_ones(len(shown), count)], dim=1)
        queries = self.queries.expand(len(shown), -1, -1)
        with torch.no_grad():
            embedded = self._table[0](ids).to(queries.dtype)
        output = self.body(
            inputs_embeds=torch.cat([embedded, queries], dim=1),
            attention_mask=mask,
            position_ids=positions_of(mask, mask.shape[1]),
            use_cache=False,
        )
        return output.last_hidden_state[:, -count:]


@dataclass(frozen=True, kw_only=True)
class PrefixCompressor:
    """The first `num_blocks` blocks, copied, and `num_vectors` queries learn to make vectors of demonstrations; the model stays. https://arxiv.org/abs/2403.06914"""

    num_vectors: int = 16
    num_blocks: int = 6

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel:
        """Return the model, frozen, with the compressor behind its vocabulary. Raises ValueError for as many blocks as it has, or more."""
        return put_before(model, self.compressor(model), self.num_vectors)

    def compressor(self, model: PreTrainedModel) -> Compressor:
        """Return the compressor before it has learned anything."""
        table: Any = model.get_input_embeddings()
        num_blocks = len(decoder_blocks(model))
        if self.num_blocks >= num_blocks:
            raise ValueError(
                f"adapt.num_blocks is {self.num_blocks}, but the model has {num_blocks} blocks; accepted: 1 to {num_blocks - 1}"
            )
        with only_blocks(model, range(self.num_blocks)):
            body: Any = copy.deepcopy(
                model.base_model, {id(table): nn.Identity()}
            )  # its own blocks, no second embedding
        return Compressor(body.train(model.training).requires_grad_(True), table, self.num_vectors)
