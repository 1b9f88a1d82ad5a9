"""Decode by two models at once. Near the risky one, inside a KL ball around the safe one, with a budget that is banked over the text.

At step t (from 0) q_t = argmin KL(q || risky) with KL(q || safe) <= k_t, k_t = max(0, (t + 1) k - debt - sum_{s<t} KL(q_s || safe)).
By the chain rule KL(q(y) || safe(y)) <= k T for texts of T tokens. It bounds the distribution that is drawn from: a greedy choice is
not covered. https://arxiv.org/abs/2602.07120. Works over any two runners with one vocabulary, torch or ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.targets.kl_ball import nearest_in_ball
from attar.compressors.measure.likelihood import scoring_batches
from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.sampling import Sampling
from attar.compressors.models.slots import Slots

# from the distribution as it is
DRAWN = Sampling(temperature=1.0)
# log of no mass, finite so that 0 times it is 0
LOG_ZERO = -1e4


@dataclass(frozen=True, kw_only=True)
class AnchorBudget:
    """k nats a token, of which the prompt may have used some. The mean of the positive part of its `num_debt_tokens` largest log-ratios."""

    nats_per_token: float = 0.15
    num_debt_tokens: int = 5

    def __post_init__(self) -> None:
        if self.nats_per_token < 0 or self.num_debt_tokens < 0:
            raise ValueError(
                f"nats_per_token and num_debt_tokens are {self.nats_per_token} and {self.num_debt_tokens}; accepted: 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class AnchoredRunner:
    """Two runners as one that decodes. Draw from it at temperature 1 without a cut: `sampling` is applied to both before they are fused.

    What `decode` then scores is log q. Raises ValueError for greedy sampling, which no budget bounds.
    """

    safe: CausalRunner
    risky: CausalRunner
    budget: AnchorBudget
    sampling: Sampling = DRAWN

    def __post_init__(self) -> None:
        if self.sampling.is_greedy:
            raise ValueError("anchored decoding bounds what is drawn; temperature is 0; accepted: above 0")

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> AnchoredSlots:
        """Return slots that hold the caches of both and each row's account."""
        both = [runner.open_slots(num_rows, num_prompt, num_new) for runner in (self.safe, self.risky)]
        return AnchoredSlots(self, both[0], both[1], num_rows)


class AnchoredSlots:
    """Both models' slots, and of each row how many tokens it has and what they cost."""

    def __init__(self, runner: AnchoredRunner, safe: Slots, risky: Slots, num_rows: int) -> None:
        self._runner, self._safe, self._risky = runner, safe, risky
        self.num_tokens = torch.zeros(num_rows)
        self.spent_nats = torch.zeros(num_rows)
        self._debts = torch.zeros(num_rows)

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        self._safe.fill(rows, prompts)
        self._risky.fill(rows, prompts)
        debts = prompt_debts(self._runner.safe, self._runner.risky, prompts, self._runner.budget.num_debt_tokens)
        for row, debt in zip(rows, debts, strict=True):
            self.num_tokens[row], self.spent_nats[row], self._debts[row] = 0, 0, debt

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        both_logits = [slots.step(tokens, lengths) for slots in (self._safe, self._risky)]
        safe, risky = (warped(logits, self._runner.sampling) for logits in both_logits)
        num_rows = len(tokens)
        earned = (self.num_tokens[:num_rows] + 1.0) * self._runner.budget.nats_per_token
        left = (earned - self._debts[:num_rows] - self.spent_nats[:num_rows]).clamp(min=0.0).to(safe.device)
        fused, spent = nearest_in_ball(safe, risky, left)
        self.num_tokens[:num_rows] += 1
        self.spent_nats[:num_rows] += spent.cpu()
        return fused

    def move(self, source: int, target: int) -> None:
        self._safe.move(source, target)
        self._risky.move(source, target)
        for values in (self.num_tokens, self.spent_nats, self._debts):
            values[target] = values[source]


def warped(logits: Float[Tensor, "B V"], sampling: Sampling) -> Float[Tensor, "B V"]:
    """Return the log-probabilities that `sampling` draws from, in float32; what `top_p` cuts off has no mass."""
    logprobs = (logits.float() / sampling.temperature).log_softmax(dim=-1)
    if sampling.top_p == 1.0:
        return logprobs
    ordered, order = logprobs.exp().sort(dim=-1, descending=True, stable=True)
    is_late = (ordered.cumsum(dim=-1) - ordered) >= sampling.top_p
    is_cut = torch.zeros_like(is_late).scatter(-1, order, is_late)
    return logprobs.masked_fill(is_cut, -torch.inf).log_softmax(dim=-1).clamp(min=LOG_ZERO)


@torch.inference_mode()
def prompt_debts(
    safe: CausalRunner, risky: CausalRunner, prompts: Sequence[Sequence[int]], num_tokens: int, batch_size: int = 8
) -> list[float]:
    """Return each prompt's debt in nats. It is the mean positive part of its largest log risky - log safe over `num_tokens` tokens."""
    debts = [0.0] * len(prompts)
    if not num_tokens:
        return debts
    whole = [index for index, prompt in enumerate(prompts) if len(prompt) > 1]
    pairs = [(prompts[index][:1], prompts[index][1:]) for index in whole]
    for locations, input_ids, mask in scoring_batches(pairs, batch_size, safe.device):
        both_logits = [
            runner.forward(input_ids.to(runner.device), mask.to(runner.device), None, last_only=False)[0]
            for runner in (safe, risky)
        ]
        for row, (index, columns) in enumerate(locations):
            ids = torch.tensor(list(pairs[index][1]))[:, None]
            own = [
                logits[row, columns].float().log_softmax(dim=-1).cpu().gather(-1, ids)[:, 0] for logits in both_logits
            ]
            ratios = (own[1] - own[0]).clamp(min=0.0)
            debts[whole[index]] = float(ratios.topk(min(num_tokens, len(ratios))).values.mean())
    return debts
