"""What the tests of methods laws and policy laws and family laws and sides laws share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.sample_facts import SampleFacts, group_advantages
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.reduction import Reduction
from attar.pipelines.recipe.whole import load_recipe
from attar.stages.finetune.config import FinetuneConfig
from tests.builders import OneBatch, table_teachers

VOCAB, LENGTH = 7, 4


@cache
def config_of(preset: str, *changes: str, node: str = "student") -> FinetuneConfig:
    """The config of a preset's training, with some fields of it changed."""
    overrides = [f"{node}.config.{change}" for change in changes]
    config = load_recipe(f"methods/{preset}", overrides).nodes[node].config
    assert isinstance(config, FinetuneConfig)
    return config


def reduction_of(preset: str, *changes: str) -> Reduction:
    return config_of(preset, *changes).reduction


def table(seed: int, num_sequences: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(num_sequences * LENGTH, VOCAB, generator=generator)


def group(
    rewards: Sequence[float], old: torch.Tensor | None = None, has_hint: bool = True, is_hinted: bool = False
) -> list[Example]:
    """One prompt's answers with their rewards, drawn by `old`, else by nobody."""
    advantages = group_advantages(rewards)
    pass_rate = sum(reward > 0.5 for reward in rewards) / len(rewards)
    examples = []
    for index, reward in enumerate(rewards):
        ids = [(3 * index + position) % VOCAB for position in range(LENGTH)]
        rows = slice(index * LENGTH, (index + 1) * LENGTH)
        drawn = None if old is None else old[rows].log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
        facts = SampleFacts(
            group=0,
            reward=reward,
            advantage=advantages[index],
            is_correct=reward > 0.5,
            has_hint=has_hint,
            is_hinted=is_hinted,
            pass_rate=pass_rate,
            old_logprobs=drawn,
        )
        examples.append(Example([1], ids, facts=facts, name=str(index)))
    return examples


@dataclass(frozen=True)
class Outcome:
    """A step's loss, its gradient in the table, and each objective's sum with its tokens."""

    loss: torch.Tensor
    gradient: torch.Tensor
    sums: dict[str, tuple[float, int]]


def step(
    reduction: Reduction,
    examples: Sequence[Example],
    student: torch.Tensor,
    clock: Clock | None = None,
    **logits_by_source: torch.Tensor | None,
) -> Outcome:
    """The loss of one step by the same path that training takes."""
    now = reduction if clock is None else reduction.at(clock)
    logits = student.clone().requires_grad_()
    loss, sums = OneBatch.of(now, examples, VOCAB, table_teachers(**logits_by_source)).loss(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    return Outcome(loss.detach(), gradient, sums)


def same(first: Outcome, second: Outcome) -> None:
    torch.testing.assert_close(first.loss, second.loss, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(first.gradient, second.gradient, atol=1e-7, rtol=1e-5)


def only(objective: object, weight: float = 1.0) -> Reduction:
    return Reduction({"one": objective}, {"one": weight})  # type: ignore[dict-item]


def split(outcome: Outcome) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient in what the plain prompt's tokens say, and in what the hinted one's do."""
    return outcome.gradient[: 4 * LENGTH], outcome.gradient[4 * LENGTH :]
