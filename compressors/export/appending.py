"""Run a graph that appends columns to its cache over one that is written in place. Each row there has an end of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.runner import positions_of


def run_appending(
    session: Any,
    ports: Sequence[tuple[str, str]],
    tensors: Sequence[Tensor],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B S"],
) -> Float[Tensor, "B T V"]:
    """Feed new tokens over the first S - T columns of `tensors` and return their logits. Their keys and values are written there.

    The graph puts a new column behind all others. A row that ends earlier is told so by the mask: the column at its end, which is
    still empty, is hidden, the last one is seen, and what the graph put there goes to the row's end. `ports`: a tensor's names.
    """
    input_ids, attention_mask = input_ids.cpu(), attention_mask.cpu()
    num_rows, num_new = input_ids.shape
    num_past = attention_mask.shape[1] - num_new
    ends, shown = _ends(attention_mask), attention_mask
    if num_new == 1:
        shown = attention_mask.clone()
        shown[torch.arange(num_rows), ends] = 0
        shown[:, -1] = 1
    feeds = {"input_ids": input_ids, "attention_mask": shown, "position_ids": positions_of(shown, num_new)}
    inputs = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in feeds.items()}
    for (past, _), tensor in zip(ports, tensors, strict=True):
        inputs[past] = tensor[:, :, :num_past].contiguous().cpu().numpy()
    logits, *grown = session.run(["logits", *(present for _, present in ports)], inputs)
    for tensor, present in zip(tensors, map(torch.from_numpy, grown), strict=True):
        if num_new == 1:
            tensor[torch.arange(num_rows), :, ends] = present[:, :, -1].to(tensor.device)
        else:
            tensor[:, :, num_past : num_past + num_new] = present[:, :, num_past:]
    return torch.from_numpy(logits)


def _ends(attention_mask: Int[Tensor, "B S"]) -> Int[Tensor, "B"]:
    """Return the last real column of each row."""
    return (attention_mask * torch.arange(attention_mask.shape[1])).amax(dim=-1)
