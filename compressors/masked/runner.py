"""Write by filling masks, block after block. Each pass reads a block's tokens from both sides and fills those that it is sure of.

Beside `compressors/models/runner.py`, which writes from left to right. A pass takes the block and the cache of all before it; the passes that
a text took are counted, and are at most its tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.compressors.masked.filling import FillRule, filled_now
from attar.compressors.masked.form import MaskedForm, visible
from attar.compressors.models.runner import positions_of
from attar.compressors.models.slots import pad_left

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Filled:
    """A text that was written: its tokens with the one that ends it, and how many passes it took."""

    token_ids: list[int]
    num_forwards: int


class MaskedRunner:
    """A transformers model that fills masks, and the rule by which it does."""

    def __init__(self, model: PreTrainedModel, form: MaskedForm, rule: FillRule) -> None:
        self.model, self.form, self.rule = model.eval(), form, rule
        self.keeps_few = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def fill(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        batch_size: int = 8,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Filled]:
        """Return what is written behind each prompt (token ids, at least one each), `batch_size` of them at a time.

        All texts of a batch are at the same block: one that has filled it waits, and its passes are not counted.
        """
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        filled: dict[int, Filled] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            texts = _Texts(self, [prompts[index] for index in chosen], max_new_tokens, frozenset(stop_ids))
            while texts.write_block():
                pass
            filled |= dict(zip(chosen, texts.filled(), strict=True))
            on_finished(len(chosen))
        return [filled[index] for index in range(len(prompts))]


class _Texts:
    """Texts that are written together. `clean`: columns whose tokens are known; the cache holds all of them but the last `tail`."""

    def __init__(
        self, runner: MaskedRunner, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: frozenset[int]
    ) -> None:
        from transformers import DynamicCache  # a second that a plan need not wait for

        self.runner, self.max_new_tokens = runner, max_new_tokens
        device = runner.model.device
        self.stops = torch.tensor(sorted(stops), dtype=torch.long, device=device)
        self.tail, mask = pad_left(prompts, device)
        self.is_real = mask.bool()
        self.segments = mask.cumsum(dim=1) - 1
        self.cache: Any = DynamicCache()
        self.written: list[list[int]] = [[] for _ in prompts]
        self.num_forwards = torch.zeros(len(prompts), dtype=torch.long, device=device)
        self.is_open = torch.ones(len(prompts), dtype=torch.bool, device=device)
        self.num_new = 0

    def filled(self) -> list[Filled]:
        """Return the texts as far as they are written."""
        counts = self.num_forwards.tolist()
        return [Filled(ids, count) for ids, count in zip(self.written, counts, strict=True)]

    def write_block(self) -> bool:
        """Fill the next block of every text that has not ended. Say whether any text goes on."""
        form, rows = self.runner.form, len(self.written)
        size = min(form.block_size, self.max_new_tokens - self.num_new)
        if size <= 0 or not bool(self.is_open.any()):
            return False
        block = torch.full((rows, size), form.mask_token_id, device=self.tail.device)
        is_masked = self.is_open[:, None].expand(-1, size).clone()
        while bool(is_masked.any()):
            logprobs = self._read(block)
            now = filled_now(*self.runner.rule(logprobs), is_masked)
            self.num_forwards += is_masked.any(dim=1)
            block = torch.where(now, logprobs.argmax(dim=-1), block)
            is_masked &= ~now
            is_masked &= ~self._ends(block, is_masked)[:, None]  # nothing behind an end is written
        self._keep(block)
        return True

    def _read(self, block: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the distribution of each token of the block; the mask itself is never one. The cache then has the clean columns but one."""
        runner, size = self.runner, block.shape[1]
        inputs = torch.cat([self.tail, block], dim=1)
        is_real, segments = self._with_block(size)
        options = {"logits_to_keep": size + 1} if runner.keeps_few else {}
        output = runner.model(
            input_ids=inputs,
            attention_mask=visible(segments, is_real, inputs.shape[1]),
            position_ids=positions_of(is_real.long(), inputs.shape[1]),
            past_key_values=self.cache,
            use_cache=True,
            **options,
        )
        self.cache = output.past_key_values
        self.cache.crop(-size - 1)
        self.tail = self.tail[:, -1:]
        logits = output.logits[:, -size - 1 : -1].float()
        logits[..., runner.form.mask_token_id] = -torch.inf
        return logits.log_softmax(dim=-1)

    def _with_block(self, size: int) -> tuple[Bool[Tensor, "B K"], Int[Tensor, "B K"]]:
        """Return which columns are real and their segments, with another block behind the clean ones."""
        fresh = self.segments.new_full((len(self.segments), size), int(self.segments.max()) + 1)
        real = torch.cat([self.is_real, torch.ones_like(fresh, dtype=torch.bool)], dim=1)
        return real, torch.cat([self.segments, fresh], dim=1)

    def _ends(self, block: Int[Tensor, "B T"], is_masked: Bool[Tensor, "B T"]) -> Bool[Tensor, "B"]:
        """Say which texts have an end with no mask before it."""
        is_known = is_masked.cumsum(dim=1) == 0
        return (torch.isin(block, self.stops) & is_known).any(dim=1)

    def _keep(self, block: Int[Tensor, "B T"]) -> None:
        """Take a filled block as clean: the next pass reads it once more, as it is now."""
        stops = set(self.stops.tolist())
        for row, ids in enumerate(block.tolist()):
            if not bool(self.is_open[row]):
                continue
            end = next((index + 1 for index, token in enumerate(ids) if token in stops), len(ids))
            self.written[row] += ids[:end]
            self.is_open[row] = ids[end - 1] not in stops
        self.is_real, self.segments = self._with_block(block.shape[1])
        self.tail = torch.cat([self.tail, block], dim=1)
        self.num_new += block.shape[1]
