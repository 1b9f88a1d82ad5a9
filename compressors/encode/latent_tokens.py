"""Latent tokens of an encoder. Rows of its embedding that stand for no word, in which a text is thought through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def add_latent_rows(model: PreTrainedModel, token_ids: Sequence[int], start_id: int | None) -> None:
    """Give an encoder a row for each of these tokens, in place. A row begins as that of `start_id`, the mask: what is to be filled in.

    None: as the mean of all rows. Rows that begin alike part by their positions.
    """
    table: Any = model.get_input_embeddings()
    rows = table.weight
    start = rows.float().mean(dim=0).to(rows.dtype) if start_id is None else rows[start_id].clone()
    if len(rows) <= max(token_ids):
        # without its own guess at new rows, which are drawn at random around the mean
        model.resize_token_embeddings(max(token_ids) + 1, mean_resizing=False)
    table = model.get_input_embeddings()  # another, where it has grown
    table.weight[list(token_ids)] = start


def train_latent_rows(model: PreTrainedModel, token_ids: Sequence[int]) -> None:
    """Let these rows of an encoder's embedding learn beside whatever else does, in float32. All others stay, for want of a gradient."""
    table: Any = model.get_input_embeddings()
    parent = next(module for module in model.modules() if any(child is table for child in module.children()))
    parent.to(torch.float32)  # with what adds positions to the rows: they are summed and normed in one dtype
    weight = table.weight
    is_latent = torch.zeros(len(weight), 1, device=weight.device)
    is_latent[list(token_ids)] = 1.0
    weight.requires_grad_(True).register_hook(lambda gradient: gradient * is_latent)
