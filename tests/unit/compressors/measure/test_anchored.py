"""Anchored decoding by enumeration: four tokens, four steps, every text that two small tables can write."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from attar.compressors.distill.losses.targets.kl_ball import nearest_in_ball
from attar.compressors.measure.anchored import AnchorBudget, AnchoredRunner, prompt_debts, warped
from attar.compressors.models.decode import decode
from attar.compressors.models.sampling import GREEDY, Sampling

VOCAB, LENGTH = 4, 4
DRAWN = Sampling(temperature=1.0)


class Bigram:
    """A language model whose next token depends on the last one alone, as a runner."""

    device = torch.device("cpu")

    def __init__(self, seed: int, scale: float) -> None:
        self.table = scale * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any, last_only: bool) -> Any:
        return self.table[input_ids], None

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Bigram:
        return self

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None: ...

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        return self.table[torch.tensor(tokens)]

    def move(self, source: int, target: int) -> None: ...


SAFE, RISKY = Bigram(0, 1.0), Bigram(1, 3.0)


def runner(budget: float, risky: Bigram = RISKY) -> AnchoredRunner:
    return AnchoredRunner(safe=SAFE, risky=risky, budget=AnchorBudget(nats_per_token=budget))


def every_text(budget: float, risky: Bigram = RISKY) -> tuple[float, list[list[float]]]:
    """Return KL(q(y) || safe(y)) over all texts, and what each of them spent after every step. Each text is a row of one batch."""
    texts = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    slots = runner(budget, risky).open_slots(len(texts), 1, LENGTH)
    slots.fill(range(len(texts)), [[0]] * len(texts))
    log_q, log_safe, spends = torch.zeros(len(texts)), torch.zeros(len(texts)), []
    last = torch.zeros(len(texts), dtype=torch.long)
    for index, tokens in enumerate(texts.T):
        log_q += slots.step(last.tolist(), [index] * len(texts)).gather(-1, tokens[:, None])[:, 0]
        log_safe += SAFE.table[last].log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        spends.append(slots.spent_nats.clone())
        last = tokens
    return float((log_q.exp() * (log_q - log_safe)).sum()), torch.stack(spends, dim=1).tolist()


def test_the_whole_text_stays_within_its_budget_and_uses_it() -> None:
    free, _ = every_text(1e9)
    assert free > 2.0, "without a budget it would go far"
    for budget in (0.05, 0.15, 0.3):
        spent, paths = every_text(budget)
        assert 0.95 * budget * LENGTH < spent <= budget * LENGTH + 1e-5
        for path in paths:
            assert all(used <= (index + 1) * budget + 1e-5 for index, used in enumerate(path))


def test_more_budget_goes_farther_and_the_ends_are_the_two_models() -> None:
    spent = [every_text(budget)[0] for budget in (0.0, 0.1, 0.2, 0.4)]
    assert spent[0] == pytest.approx(0.0, abs=1e-6) and spent == sorted(spent) and spent[-1] > spent[1] + 0.1
    for budget, expected in ((0.0, SAFE), (1e9, RISKY)):
        slots = runner(budget).open_slots(1, 1, LENGTH)
        slots.fill([0], [[2]])
        torch.testing.assert_close(slots.step([2], [0])[0], expected.table[2].log_softmax(-1), atol=1e-5, rtol=1e-5)


def test_what_is_not_spent_is_kept_for_later() -> None:
    """Where both agree nothing is spent, so that the next step may go beyond a token's share."""
    table = SAFE.table.clone()
    table[1] = torch.tensor([8.0, 0.0, 0.0, 0.0])
    risky = Bigram(1, 1.0)
    risky.table = table
    slots = runner(0.2, risky).open_slots(1, 1, LENGTH)
    slots.fill([0], [[0]])
    slots.step([0], [0])
    slots.step([0], [1])
    assert float(slots.spent_nats[0]) == pytest.approx(0.0, abs=1e-6)
    slots.step([1], [2])
    assert float(slots.spent_nats[0]) == pytest.approx(0.6, abs=1e-3)


def test_nearest_point_in_the_ball_is_nearer_than_any_other() -> None:
    generator = torch.Generator().manual_seed(3)
    center, toward = (
        torch.randn(1, 5, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1) for _ in range(2)
    )
    budget = torch.tensor([0.1], dtype=torch.float64)
    q, spent = nearest_in_ball(center, toward, budget)
    assert 0.0999 < float(spent) <= 0.1

    def kl(p: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (p.exp() * (p - other)).sum(-1)

    tried = (q + 0.3 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)).log_softmax(-1)
    inside = tried[kl(tried, center) <= 0.1]
    assert len(inside) > 50 and float(kl(inside, toward).min()) >= float(kl(q, toward)) - 1e-4


def test_rows_keep_their_own_accounts_while_a_batch_is_refilled() -> None:
    """The same seeds give the same texts whatever the batch: spends are moved with their rows and cleared for new ones."""
    prompts, seeds = [[index % VOCAB, (index * 3) % VOCAB] for index in range(9)], list(range(9))
    texts = [
        decode(runner(0.1), prompts, max_new_tokens=6, stop_ids=[3], batch_size=size, sampling=DRAWN, seeds=seeds)
        for size in (1, 4, 9)
    ]
    assert (
        [text.token_ids for text in texts[0]]
        == [text.token_ids for text in texts[1]]
        == [text.token_ids for text in texts[2]]
    )


def test_a_prompt_that_the_risky_model_knows_by_heart_costs() -> None:
    [debt] = prompt_debts(SAFE, RISKY, [[0, 1, 2, 3, 0]], num_tokens=2)  # type: ignore[arg-type]
    pairs = list(itertools.pairwise([0, 1, 2, 3, 0]))
    gaps = [float((RISKY.table[a].log_softmax(-1) - SAFE.table[a].log_softmax(-1))[b]) for a, b in pairs]
    assert debt == pytest.approx(sum(sorted((max(0.0, gap) for gap in gaps), reverse=True)[:2]) / 2, abs=1e-5)
    assert prompt_debts(SAFE, RISKY, [[0]], num_tokens=2) == [0.0]  # type: ignore[arg-type]


def test_heat_and_cut_are_applied_to_both_before_they_are_fused() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -3.0]])
    warped_logits = warped(logits, Sampling(temperature=0.5, top_p=0.9))
    torch.testing.assert_close(warped_logits[0, :2].exp(), (logits[0, :2] / 0.5).softmax(-1), atol=1e-6, rtol=1e-6)
    assert warped_logits[0, 2:].exp().sum() == 0.0
    with pytest.raises(ValueError, match="temperature is 0"):
        AnchoredRunner(safe=SAFE, risky=RISKY, budget=AnchorBudget(), sampling=GREEDY)
