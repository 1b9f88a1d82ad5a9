"""Presets that learn both sides of a prompt, as they ship: their laws, on objectives read from their recipes.

A student is a table of logits here, one row a learned token, so that every loss and gradient is exact.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.compressors.data.prompts import answer_tokens, chat_prompt
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.teachers.contexts import ContextParts, Wording
from attar.compressors.distill.teachers.sources import Base, Live
from attar.stages.finetune.teaching import with_other_sides
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.ingest.tiny_model import byte_tokenizer
from tests.laws.method_steps import (
    LENGTH,
    VOCAB,
    config_of,
    group,
    only,
    reduction_of,
    same,
    split,
    step,
    table,
)


def test_skill_sd_without_its_weight_is_grpo_and_without_a_skill_nothing_is_added() -> None:
    old = table(0) + 0.1 * table(5)
    examples = group([1.0, 0.0, 0.0, 1.0], old)
    grpo = step(only(Distil(divergence=ClippedRatio())), examples, table(0))
    same(step(reduction_of("skill-sd", "objectives.skill.weight=0.0"), examples, table(0), teacher=table(1)), grpo)
    untold = step(reduction_of("skill-sd"), examples, table(0), teacher=table(0))  # live, and told nothing
    same(untold, grpo)
    assert untold.sums["skill"][0] == pytest.approx(0.0, abs=1e-6)
    skilled = step(reduction_of("skill-sd", "objectives.skill.weight=1.0"), examples, table(0), teacher=table(1))
    assert (skilled.gradient - grpo.gradient).abs().max() > 1e-3
    assert config_of("skill-sd").teacher.rule == Live(), "a frozen teacher costs 12 to 16 points"


def test_skill_sd_gradient_is_that_of_the_reverse_kl_whatever_drew_the_tokens() -> None:
    """Over every token that an old policy could draw: autograd of the shipped term averages to the gradient of KL(S || T)."""
    student, teacher, old = (table(seed, 1)[:1] for seed in (0, 1, 2))
    reduction = reduction_of("skill-sd", "objectives.skill.weight=1.0")
    alone = Reduction({"skill": reduction.objectives["skill"]}, {"skill": 1.0})
    total = torch.zeros_like(student)
    for token in range(VOCAB):
        log_old = old.log_softmax(-1)[0, token]
        example = Example([1], [token], facts=SampleFacts(old_logprobs=log_old[None]))
        total += log_old.exp() * step(alone, [example], student, teacher=teacher).gradient
    gap = student.log_softmax(-1) - teacher.log_softmax(-1)
    probs = student.softmax(-1)
    torch.testing.assert_close(total, probs * (gap - (probs * gap).sum()), atol=1e-6, rtol=1e-4)


def hinted_example(is_right: bool) -> Example:
    """One answer with what the preset's teacher reads before it, in bytes."""
    tokenizer: Any = byte_tokenizer()
    wording = Wording(
        render=lambda question: chat_prompt(tokenizer, question),
        encode=lambda text: tokenizer(text, add_special_tokens=False).input_ids,
        decode=lambda ids: tokenizer.decode(list(ids)),
        stop_ids=frozenset({tokenizer.eos_token_id}),
    )
    prompt, answer = chat_prompt(tokenizer, "3 + 4?"), answer_tokens(tokenizer, "It is 8.")
    parts = ContextParts(question="3 + 4?", prompt_ids=prompt, answer_ids=answer, is_correct=is_right)
    return Example(prompt, answer, hinted_ids=config_of("sd-zero").teacher.context(parts, wording))


def test_sd_zero_aligns_the_second_copy_of_the_answer() -> None:
    """A model that sees the last token alone says the same in both copies: any shift between them gives a loss."""
    batch = collate([hinted_example(False)], [0], is_packed=True)
    assert batch.hinted is not None
    bigram = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    student, teacher = (bigram[side.input_ids[side.rows, side.columns]] for side in (batch, batch.hinted))
    assert torch.equal(student, teacher) and torch.equal(batch.next_ids, batch.hinted.next_ids)
    shifted = bigram[batch.hinted.input_ids[batch.hinted.rows, batch.hinted.columns - 1]]
    assert not torch.equal(student, shifted)


def test_sd_zero_phrase_turns_with_the_verdict() -> None:
    tokenizer: Any = byte_tokenizer()
    right, wrong = (tokenizer.decode(list(hinted_example(verdict).hinted_ids or [])) for verdict in (True, False))
    assert right.endswith("It is 8.\n\nLet me rephrase the above solution.\n\n")
    assert wrong.endswith("It is 8.\n\nWait, this response is wrong. Let me correct it.\n\n")
    weights = reduction_of("sd-zero").objectives["revised"].divergence  # type: ignore[attr-defined]
    assert (weights.forward_weight, weights.reverse_weight) == (0.5, 0.5) and config_of(
        "sd-zero"
    ).teacher.rule == Base()


def test_self_judge_sides_and_stop_gradient() -> None:
    """With the reference: S - y alone. Without: 0.3 (S - y) + 2 (S - T), T what the other side says, and nothing flows back to it."""
    plain, hinted = table(0), table(1)
    examples = [*group([0.0] * 4), *group([0.0] * 4, is_hinted=True)]
    now, seen = torch.cat([plain, hinted]), torch.cat([hinted, plain])
    result = step(reduction_of("self-judge"), examples, now, teacher=seen)
    labels = torch.nn.functional.one_hot(
        torch.tensor([t for example in examples[:4] for t in example.answer_ids]), VOCAB
    )
    scale = 1 / (8 * LENGTH)
    without = (0.3 * (plain.softmax(-1) - labels) + 2 * (plain.softmax(-1) - hinted.softmax(-1))) * scale
    torch.testing.assert_close(split(result)[0], without, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(split(result)[1], (hinted.softmax(-1) - labels) * scale, atol=1e-6, rtol=1e-4)
    equal = step(reduction_of("self-judge"), examples, torch.cat([plain, plain]), teacher=torch.cat([plain, plain]))
    assert equal.sums["view"][0] == pytest.approx(0.0, abs=1e-6), "two prompts that are one"


def test_rows_are_learned_on_both_sides() -> None:
    rows = TrainingRows([hinted_example(True)], [], [0], ["a"], [], [None], [])
    both = with_other_sides(rows)
    assert len(both.train) == len(both.sources) == len(both.ids) == len(both.questions) == 2
    assert both.train[1].prompt_ids == both.train[0].hinted_ids and both.train[1].hinted_ids == both.train[0].prompt_ids
    assert [example.facts.is_hinted for example in both.train] == [False, True]
