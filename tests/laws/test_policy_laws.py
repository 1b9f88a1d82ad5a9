"""Presets with rollouts, as they ship: each method's identities, limits and theorems, on objectives read from its recipe.

A student is a table of logits here, one row a learned token, so that every loss and gradient is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.rollouts import TeacherWrites
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from tests.builders import OneBatch, table_teachers
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


def test_srpo_all_right_is_grpo() -> None:
    old, rewards = table(0) + 0.1 * table(3), [1.0, 1.0, 1.0, 1.0]
    examples = [
        replace(example, facts=replace(example.facts, advantage=0.3 * i - 0.4))
        for i, example in enumerate(group(rewards, old))
    ]
    grpo = only(Distil(divergence=ClippedRatio(clip_high=0.28)))
    result = step(reduction_of("srpo"), examples, table(0), teacher=table(1))
    same(result, step(grpo, examples, table(0)))
    assert result.sums["sdpo"][0] == 0.0 and result.gradient.abs().max() > 1e-3


def test_srpo_all_wrong_without_a_right_sibling_has_no_gradient() -> None:
    """No sibling to show: the sequences go to GRPO, whose advantages are all zero."""
    examples = group([0.0] * 4, table(0), has_hint=False)
    result = step(reduction_of("srpo"), examples, table(0), teacher=table(1))
    assert result.gradient.abs().max() == 0.0


def test_srpo_denominator_does_not_depend_on_the_route() -> None:
    """One denominator over all tokens: a sequence that goes the other way takes its tokens along."""
    counts = []
    for rewards in ([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]):
        result = step(reduction_of("srpo"), group(rewards, table(0)), table(0), teacher=table(1))
        counts.append({name: count for name, (_, count) in result.sums.items()})
    assert counts[0] == counts[1] == {"grpo": 4 * LENGTH, "sdpo": 4 * LENGTH}


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_srpo_entropy_weights_have_mean_one(beta: float) -> None:
    """exp(-beta H) over its mean on the tokens of the wrong route: a divergence that is one everywhere sums to their number."""
    reduction = reduction_of("srpo", f"objectives.sdpo.token_weight.entropy.beta={beta}")
    examples = group([1.0, 0.0, 0.0, 0.0], table(0))
    (mean,) = OneBatch.of(reduction, examples, VOCAB, table_teachers(teacher=table(1))).step.weight_means.values()
    entropy = -(table(1).log_softmax(-1).exp() * table(1).log_softmax(-1)).sum(-1)[LENGTH:]
    assert float(((-beta * entropy).exp() / mean).mean()) == pytest.approx(1.0, abs=1e-5)
    if beta == 0.0:
        assert mean == pytest.approx(1.0)


def test_rlad_at_alpha_one_is_grpo_bit_for_bit() -> None:
    examples = group([1.0, 0.0, 0.0, 1.0], table(0) + 0.2 * table(4))
    result = step(
        reduction_of("rlad", "objectives.rlad.divergence.teacher_ratio.alpha=1.0"), examples, table(0), teacher=table(1)
    )
    grpo = step(only(Distil(divergence=ClippedRatio(clip_high=0.28))), examples, table(0))
    assert torch.equal(result.loss, grpo.loss) and torch.equal(result.gradient, grpo.gradient)
    shipped = step(reduction_of("rlad"), examples, table(0), teacher=table(1))
    assert (shipped.gradient - grpo.gradient).abs().max() > 1e-4, "the teacher is in the ratio"


def test_rlad_without_advantage_has_no_gradient() -> None:
    result = step(reduction_of("rlad"), group([1.0] * 4, table(0)), table(0), teacher=table(1))
    assert result.gradient.abs().max() == 0.0


def test_rlad_alpha_does_not_matter_when_the_teacher_drew() -> None:
    examples = group([1.0, 0.0, 0.0, 1.0], table(1))
    result = [
        step(
            reduction_of("rlad", f"objectives.rlad.divergence.teacher_ratio.alpha={alpha}"),
            examples,
            table(0),
            teacher=table(1),
        )
        for alpha in (0.0, 0.5, 1.0)
    ]
    same(result[0], result[1])
    same(result[1], result[2])


def test_adpo_descends_to_the_anchor_times_the_target() -> None:
    """At the old policy the gradient pushes the better answers up, the worse ones down, and equal rewards leave all as it is."""
    reduction = reduction_of("adpo")
    examples = group([1.0, 0.0, 0.0, 0.0], table(0))
    moved = table(0) - 0.5 * len(examples) * step(reduction, examples, table(0)).gradient
    ids = torch.tensor([example.answer_ids for example in examples])
    rises = sequence_logprobs(moved, ids) - sequence_logprobs(table(0), ids)
    assert rises[0] > 0 and (rises[1:] < 0).all()
    equal = step(reduction, group([1.0] * 4, table(0)), table(0))
    assert equal.gradient.abs().max() < 1e-6
    assert float(equal.loss) == pytest.approx(math.log(4), abs=1e-5), "the entropy of a uniform target"


def sequence_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, ids.view(-1)[:, None]).view(ids.shape).sum(-1)


def both_sides(rewards: Sequence[float], old: torch.Tensor) -> list[Example]:
    plain = group(rewards, old)
    return [*plain, *group(rewards, old, is_hinted=True)]


def test_pi_distill_without_a_hint_has_both_gradients_equal_to_grpo() -> None:
    """Nothing told: teacher and student say the same, the ratio is 1, both KLs are 0, and each side is half of GRPO."""
    now = table(0)
    examples = both_sides([1.0, 0.0, 0.0, 1.0], now)
    plain, hinted = split(step(reduction_of("pi-distill"), examples, now.repeat(2, 1), teacher=now.repeat(2, 1)))
    torch.testing.assert_close(plain, hinted, atol=1e-7, rtol=1e-5)
    grpo = step(only(Distil(divergence=ClippedRatio()), 0.5), examples[:4], now).gradient
    torch.testing.assert_close(plain, grpo / 2, atol=1e-7, rtol=1e-5)  # twice as many tokens below
    assert plain.abs().max() > 1e-3


def test_pi_distill_teacher_term_ignores_the_students_weights() -> None:
    """KL(pi_T || sg pi_S) and KL(sg pi_T || pi_S): each moves its own side alone, by finite differences on separate tables."""
    hinted, plain = table(0), table(1)
    examples = both_sides([1.0] * 4, hinted)  # no advantage: the KLs alone
    reduction = reduction_of("pi-distill")
    both = torch.cat([plain, hinted])
    result = step(reduction, examples, both, teacher=torch.cat([hinted, plain]))
    teacher_side = value_and_slope(lambda x: kl(x, plain), hinted, 0.05 / (8 * LENGTH))
    student_side = value_and_slope(lambda x: kl(hinted, x), plain, 0.05 / (8 * LENGTH))
    torch.testing.assert_close(split(result)[1], teacher_side, atol=2e-5, rtol=1e-2)
    torch.testing.assert_close(split(result)[0], student_side, atol=2e-5, rtol=1e-2)


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum()


def value_and_slope(loss: object, at: torch.Tensor, scale: float, size: float = 1e-4) -> torch.Tensor:
    """The gradient by central differences."""
    slope = torch.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.double(), at.double()
        up[index] += size
        down[index] -= size
        slope[index] = float(loss(up) - loss(down)) / (2 * size) * scale  # type: ignore[operator]
    return slope


def test_pi_distill_without_reward_is_forward_kl_on_teacher_text() -> None:
    reduction = reduction_of("pi-distill")
    examples = group([0.0] * 4, table(1))
    result = step(reduction, examples, table(0), teacher=table(1))
    same(result, step(only(Distil(divergence=ForwardKL()), 0.05), examples, table(0), teacher=table(1)))
    assert config_of("pi-distill").rollout == TeacherWrites(num_samples=8, max_new_tokens=128, both_sides=True)
