"""Decode a batch of prompts with a KV cache, over any runner, recording the top of each next-token distribution on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from compressors.measure.runner import CausalRunner


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. `temperature` 0 is greedy; `top_p` in (0, 1] keeps the smallest set of that mass."""

    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def pick(self, logprobs: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
        """Return one token a row."""
        if self.temperature == 0.0:
            return logprobs.argmax(dim=-1)
        probs = (logprobs / self.temperature).softmax(dim=-1)
        if self.top_p == 1.0:  # sorting a vocabulary costs more than a block; without a cut it is not needed
            return self._draw(probs)
        ordered, order = probs.sort(dim=-1, descending=True)
        # a token stays while the mass before it is below top_p, so at least one does
        ordered = ordered * ((ordered.cumsum(dim=-1) - ordered) < self.top_p)
        return order.gather(-1, self._draw(ordered)[:, None]).squeeze(-1)

    def _draw(self, weights: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
        # on the generator's device: a seed must give the same tokens wherever the model runs
        device = self.generator.device if self.generator is not None else weights.device
        return torch.multinomial(weights.to(device), 1, generator=self.generator).squeeze(-1).to(weights.device)


@dataclass
class Generation:
    """New tokens of one prompt, the stop token included where one was drawn, and the recorded candidates of each."""

    token_ids: list[int] = field(default_factory=list)
    is_finished: bool = False
    top_ids: list[Int[Tensor, "K"]] = field(default_factory=list)
    top_logprobs: list[Float[Tensor, "K"]] = field(default_factory=list)


def decode(
    runner: CausalRunner,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling = Sampling(),
    num_recorded: int = 0,
    on_tokens: Callable[[int], None] = lambda count: None,
) -> list[Generation]:
    """Return the continuation of each prompt (token ids, at least one each).

    `num_recorded` K: keep the K most probable tokens and their log-probabilities (nats, at temperature 1) at every step.
    Rows that are done leave the batch once half of it is, so a long answer does not drag finished ones along.
    """
    generations = [Generation() for _ in prompts]
    input_ids, attention_mask = pad_left(prompts, runner.device)
    active = list(range(len(prompts)))  # which prompt each row of the batch is
    cache: Any = None
    for _ in range(max_new_tokens):
        logits, cache = runner.forward(input_ids, attention_mask, cache, last_only=True)
        logprobs = logits[:, -1].float().log_softmax(dim=-1)
        chosen = sampling.pick(logprobs)
        live = [row for row, index in enumerate(active) if not generations[index].is_finished]
        _append(generations, active, live, chosen, logprobs, num_recorded, stop_ids)
        on_tokens(len(live))
        live = [row for row in live if not generations[active[row]].is_finished]
        if not live:
            break
        input_ids = chosen[:, None]
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(active), 1)], dim=1)
        if len(live) <= len(active) // 2:
            rows = torch.tensor(live, device=runner.device)
            cache = runner.select_rows(cache, rows)
            input_ids, attention_mask = input_ids[rows], attention_mask[rows]
            active = [active[row] for row in live]
    return generations


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Return (input ids, attention mask) with the padding before the tokens."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _append(
    generations: list[Generation],
    active: list[int],
    live: list[int],
    chosen: Int[Tensor, "B"],
    logprobs: Float[Tensor, "B V"],
    num_recorded: int,
    stop_ids: Sequence[int],
) -> None:
    if num_recorded:
        values, ids = logprobs.topk(min(num_recorded, logprobs.shape[-1]), dim=-1)
    tokens = chosen.tolist()
    for row in live:
        generation = generations[active[row]]
        generation.token_ids.append(tokens[row])
        if num_recorded:
            generation.top_ids.append(ids[row].cpu())
            generation.top_logprobs.append(values[row].cpu())
        generation.is_finished = tokens[row] in stop_ids
