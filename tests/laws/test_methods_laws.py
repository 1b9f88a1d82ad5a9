"""The presets as they ship: each one's identities, limits and theorems, on its own objectives read from its recipe.

A student is a table of logits here, one row a learned token, so that every loss and gradient is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from attar.compressors.data.prompts import answer_tokens, chat_prompt
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.examples.rollouts import TeacherWrites
from attar.compressors.distill.examples.sample_facts import SampleFacts, group_advantages
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import Targets, Views
from attar.compressors.distill.teachers.contexts import ContextParts, Wording
from attar.compressors.distill.teachers.sources import Base, Ema, Live, PreviousEpoch
from attar.compressors.models.head import OutputHead
from attar.pipelines.recipe.whole import load_recipe
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.teaching import with_other_sides
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.ingest.tiny_model import byte_tokenizer
from tests.builders import OneBatch, TableTeacher, table_teachers, token_loss

VOCAB, LENGTH = 7, 4
# a student whose hidden states are its logits


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


LAST = Clock(9, 10, 3, 4)


# PS-KD


def test_ps_kd_without_a_share_is_cross_entropy() -> None:
    plain = reduction_of("ps-kd", "objectives.ps_kd.schedule.linear_ramp.end=0.0")
    result = step(plain, group([1, 0, 0, 1]), table(0), LAST, past=table(1))
    same(result, step(only(NextToken()), group([1, 0, 0, 1]), table(0)))
    mixed = step(reduction_of("ps-kd"), group([1, 0, 0, 1]), table(0), LAST, past=table(1))
    assert (mixed.gradient - result.gradient).abs().max() > 1e-3, "with a share it is not"


def test_ps_kd_share_rises_to_its_end_in_the_last_epoch() -> None:
    reduction = reduction_of("ps-kd")
    shares = [reduction.at(Clock(epoch, 5, epoch, 5)).objectives["ps_kd"].target.share for epoch in range(5)]  # type: ignore[attr-defined]
    assert shares == pytest.approx([0.8 * (epoch + 1) / 5 for epoch in range(5)])
    assert config_of("ps-kd").past == PreviousEpoch()


def test_ps_kd_gradient_factor_at_the_label() -> None:
    """d loss / d logit of the label = (p - 1) [1 - a (1 - p_past) / (1 - p)], summed loss."""
    student, past, examples = table(0), table(1), group([1, 0, 0, 1])
    result = step(reduction_of("ps-kd"), examples, student, LAST, past=past)
    labels = torch.tensor([token for logits in examples for token in logits.answer_ids])[:, None]
    p, p_past = (logits.softmax(-1).gather(-1, labels) for logits in (student, past))
    expected = (p - 1) * (1 - 0.8 * (1 - p_past) / (1 - p)) / len(labels)
    torch.testing.assert_close(result.gradient.gather(-1, labels), expected, atol=1e-6, rtol=1e-4)


# Recursive Meta-Distillation


def generations(anchor: torch.Tensor, start: torch.Tensor, num: int, share: float | None = None) -> list[float]:
    """KL(base || student) a generation, each student being its target exactly, as a table can be."""
    change = [] if share is None else [f"objectives.meta.target.mix.share={share}"]
    objective = reduction_of("recursive-meta-distillation", *change).objectives["meta"]
    assert isinstance(objective, Distil)
    now, gaps = start, []
    for _ in range(num + 1):
        gaps.append(float((anchor.exp() * (anchor - now)).sum(-1).mean()))
        # the student itself is elsewhere: a target that reads it would not contract
        now = objective.target(
            Views(torch.zeros_like(now), torch.zeros(len(now), dtype=torch.long), past=now, anchor=anchor)
        )
    return gaps


def test_recursive_meta_contracts_to_the_base_teacher() -> None:
    """KL(P0 || Pg) <= (1 - 0.3)^g KL(P0 || P_start) by joint convexity, and P0 is the fixed point."""
    anchor, start = (table(seed).double().log_softmax(-1) for seed in (0, 1))
    gaps = generations(anchor, start, 12)
    assert gaps[0] > 0.1
    assert all(gap <= 0.7**index * gaps[0] + 1e-12 for index, gap in enumerate(gaps))
    assert generations(anchor, anchor, 3) == pytest.approx([0.0] * 4, abs=1e-12)
    assert generations(anchor, start, 1, share=1.0)[1] == pytest.approx(0.0, abs=1e-12), "a whole share lands at once"


def test_recursive_meta_without_an_anchor_drifts() -> None:
    """Each generation errs a little: with share 0 the errors add up, with 0.3 they stay bounded."""
    anchor = table(0).double().log_softmax(-1)

    def drift(share: float) -> float:
        objective = reduction_of("recursive-meta-distillation", f"objectives.meta.target.mix.share={share}").objectives[
            "meta"
        ]
        now, generator = anchor, torch.Generator().manual_seed(5)
        for _ in range(40):
            views = Views(now, torch.zeros(len(now), dtype=torch.long), past=now, anchor=anchor)
            noise = 0.2 * torch.randn(now.shape, generator=generator, dtype=torch.float64)
            now = (objective.target(views) + noise).log_softmax(-1)  # type: ignore[attr-defined]
        return float((anchor.exp() * (anchor - now)).sum(-1).mean())

    assert drift(0.0) > 5 * drift(0.3)


# CurioSFT


def test_curiosft_toward_itself_without_heat_is_fine_tuning() -> None:
    cold = reduction_of(
        "curiosft",
        "objectives.curiosity.target.entropy_temper.lowest=1.0",
        "objectives.curiosity.target.entropy_temper.highest=1.0",
    )
    result = step(cold, group([1, 0, 0, 1]), table(0), past=table(0))
    same(result, step(only(NextToken()), group([1, 0, 0, 1]), table(0)))
    hot = step(reduction_of("curiosft"), group([1, 0, 0, 1]), table(0), past=table(0))
    assert (hot.gradient - result.gradient).abs().max() > 1e-3


def test_curiosft_keeps_order_heats_the_unsure_and_follows_every_five_steps() -> None:
    config = config_of("curiosft")
    target = config.reduction.objectives["curiosity"].target  # type: ignore[attr-defined]
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]).log_softmax(-1), torch.tensor([[0.3, 0.0, 0.1]]).log_softmax(-1)
    logits = torch.cat([sure, unsure, table(0)[:, :3].log_softmax(-1)])
    heated = target(Views(logits, torch.zeros(len(logits), dtype=torch.long), past=logits))
    assert torch.equal(heated.argsort(dim=-1), logits.argsort(dim=-1))
    heats = target.temperatures(logits)
    assert float(heats[0]) == pytest.approx(1.1), "without that rule a sure token would get 1.5"
    assert float(heats[1]) > 1.2
    assert config.past == Ema(decay=0.01, every=5), "nearly a copy, no average of decay 0.99"


# OPSD


def test_opsd_without_a_hint_is_zero_with_zero_gradient() -> None:
    result = step(reduction_of("opsd"), group([0, 0, 1, 0]), table(0), teacher=table(0))
    assert float(result.loss) == pytest.approx(0.0, abs=1e-7) and result.gradient.abs().max() < 1e-7
    assert float(step(reduction_of("opsd"), group([0, 0, 1, 0]), table(0), teacher=table(1)).loss) > 0.05


def test_opsd_clip_bounds_each_token_and_is_nothing_when_wide() -> None:
    def clipped(limit: float) -> Outcome:
        change = f"objectives.opsd.token_weight.clip.limit_nats={limit}"
        return step(reduction_of("opsd", change), group([0, 0, 1, 0]), table(0), teacher=table(1))

    plain = replace(reduction_of("opsd").objectives["opsd"], token_weights=())  # type: ignore[type-var]
    same(clipped(1e9), step(only(plain), group([0, 0, 1, 0]), table(0), teacher=table(1)))
    assert float(clipped(0.01).loss) <= 0.01 + 1e-7
    assert clipped(0.01).gradient.abs().max() < plain_gradient_max(plain)


def plain_gradient_max(objective: object) -> torch.Tensor:
    return step(only(objective), group([0, 0, 1, 0]), table(0), teacher=table(1)).gradient.abs().max()


# SRPO


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


# RLAD, ADPO, Skill-SD


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


# pi-Distill


def both_sides(rewards: Sequence[float], old: torch.Tensor) -> list[Example]:
    plain = group(rewards, old)
    return [*plain, *group(rewards, old, is_hinted=True)]


def split(outcome: Outcome) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient in what the plain prompt's tokens say, and in what the hinted one's do."""
    return outcome.gradient[: 4 * LENGTH], outcome.gradient[4 * LENGTH :]


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


# TSD-KD, PACED


def test_tsd_kd_ranking_step_raises_the_agreement() -> None:
    student, teacher = table(0), table(1)
    alone = Reduction(*({"opener": part["opener"]} for part in (reduction_of("tsd-kd").objectives, {"opener": 1.0})))  # type: ignore[arg-type]
    result = step(alone, group([0.0] * 4), student, teacher=teacher)
    is_opener = result.gradient.abs().sum(-1) > 0
    assert 4 <= int(is_opener.sum()) < 4 * LENGTH, "at least one token a sequence, not all"
    moved = student.clone()
    for _ in range(200):
        moved -= 2.0 * step(alone, group([0.0] * 4), moved, teacher=teacher).gradient
    assert agreement(moved, teacher, is_opener) > agreement(student, teacher, is_opener) + 0.2


def agreement(student: torch.Tensor, teacher: torch.Tensor, rows: torch.Tensor) -> float:
    """Kendall's tau of the two orders, mean over rows."""
    first, other = student[rows], teacher[rows]
    signs = [(x[:, :, None] - x[:, None, :]).sign() for x in (first, other)]
    return float((signs[0] * signs[1]).sum((1, 2)).mean()) / (VOCAB * (VOCAB - 1))


def test_tsd_kd_sharpens_exactly_a_tenth_of_the_tokens() -> None:
    alone = Reduction({"sharpen": reduction_of("tsd-kd").objectives["sharpen"]}, {"sharpen": 1.0})
    result = step(alone, group([0.0] * 4), table(0))
    touched = (result.gradient.abs().sum(-1) > 0).view(4, LENGTH).sum(-1)
    assert touched.tolist() == [math.ceil(0.1 * LENGTH)] * 4
    after = (table(0) - result.gradient).log_softmax(-1)
    before = table(0).log_softmax(-1)
    assert (after.exp() * -after).sum() < (before.exp() * -before).sum()


def test_paced_ignores_what_is_always_or_never_solved() -> None:
    for rewards in ([1.0] * 4, [0.0] * 4):
        assert step(reduction_of("paced"), group(rewards), table(0), teacher=table(1)).gradient.abs().max() == 0.0
    assert step(reduction_of("paced"), group([1.0, 0, 0, 0]), table(0), teacher=table(1)).gradient.abs().max() > 1e-3


def test_paced_without_exponents_is_unweighted() -> None:
    flat = reduction_of("paced", "objectives.paced.sample_weight.beta_kernel={alpha: 0.0, beta: 0.0}")
    result = step(flat, group([1.0] * 4), table(0), teacher=table(1))
    same(result, step(only(Distil(divergence=ForwardKL())), group([1.0] * 4), table(0), teacher=table(1)))


def test_paced_switch_turns_the_gradient() -> None:
    """First half: the gradient of KL(T || S), S - T a token; second half: that of KL(S || T)."""
    reduction, examples = reduction_of("paced"), group([1.0, 0, 0, 0])
    first, second = (
        step(reduction, examples, table(0), Clock(at, 10, 0, 1), teacher=table(1)).gradient for at in (4, 5)
    )
    student, teacher = table(0).log_softmax(-1), table(1).log_softmax(-1)
    torch.testing.assert_close(first, (student.exp() - teacher.exp()) / len(student), atol=1e-6, rtol=1e-4)
    gap = student - teacher
    reverse = student.exp() * (gap - (student.exp() * gap).sum(-1, keepdim=True)) / len(student)
    torch.testing.assert_close(second, reverse, atol=1e-6, rtol=1e-4)


# the f-divergence family of on-policy distillation


@pytest.mark.parametrize("preset", ["gkd", "minillm", "distillm"])
def test_family_is_zero_only_between_equals(preset: str) -> None:
    reduction = reduction_of(preset)
    equal = step(reduction, group([0.0] * 4), table(0), teacher=table(0))
    other = step(reduction, group([0.0] * 4), table(0), teacher=table(1))
    assert abs(float(equal.loss)) < 1e-6 and equal.gradient.abs().max() < 1e-6 and float(other.loss) > 0.05
    moved = step(reduction, group([0.0] * 4), table(0) - other.gradient, teacher=table(1))
    assert float(moved.loss) < float(other.loss)


def test_reverse_kl_in_full_is_the_mean_of_the_sampled_form() -> None:
    """Per token: sum over all outcomes, as drawn, of the policy-gradient form is the gradient that the preset takes."""
    student, teacher = table(0), table(1)
    result = step(reduction_of("minillm"), group([0.0] * 4), student, teacher=teacher)
    logits = student.clone().requires_grad_()
    own, gap = logits.log_softmax(-1), (student.log_softmax(-1) - teacher.log_softmax(-1))
    drawn = (own.exp().detach() * gap * own).sum() / len(student)  # E_y [sg(d) grad log S(y)]
    torch.testing.assert_close(result.gradient, torch.autograd.grad(drawn, logits)[0], atol=1e-6, rtol=1e-4)


def test_skew_kl_is_bounded_and_tends_to_kl() -> None:
    apart = torch.full((4 * LENGTH, VOCAB), -40.0)
    student, teacher = apart.clone(), apart.clone()
    student[:, 0], teacher[:, 1] = 40.0, 40.0
    far = step(reduction_of("distillm"), group([0.0] * 4), student, teacher=teacher)
    assert float(far.loss) == pytest.approx(-math.log(0.1), abs=1e-4)
    small = reduction_of("distillm", "objectives.skew.divergence.skew_kl.skew=0.000001")
    same_as = step(only(Distil(divergence=ForwardKL())), group([0.0] * 4), table(0), teacher=table(1))
    near = step(small, group([0.0] * 4), table(0), teacher=table(1))
    torch.testing.assert_close(near.loss, same_as.loss, atol=1e-4, rtol=1e-4)


# Even your Teacher Needs Guidance


def test_squared_error_toward_a_mix_is_the_mix_of_squared_errors() -> None:
    """The target alpha y + (1 - alpha) T has the gradient of alpha ||S - y||^2 + (1 - alpha) ||S - T||^2: the paper's two terms."""
    examples, student, teacher = group([0.0] * 4), table(0), table(1)

    def at(share: float) -> Outcome:
        change = f"objectives.guided.target.mix.share={share}"
        return step(reduction_of("even-your-teacher", change), examples, student, teacher=teacher)

    mixed, labels, echo = at(0.35), at(1.0), at(0.0)
    torch.testing.assert_close(mixed.gradient, 0.35 * labels.gradient + 0.65 * echo.gradient, atol=1e-7, rtol=1e-4)
    assert (labels.gradient - echo.gradient).abs().max() > 1e-3


def test_fitted_share_reaches_the_target() -> None:
    config = config_of("even-your-teacher")
    fitted = config.with_fitted(0.85)
    assert fitted.reduction.objectives["guided"].target.share == 0.85  # type: ignore[attr-defined]
    assert load_recipe("methods/even-your-teacher").nodes["student"].inputs["fitted"] == ("share",)
    with pytest.raises(ValueError, match="names no number"):
        config_of("even-your-teacher", "fitted=objectives.guided.target.mix.shore")


# Distilling the Knowledge in Data Pruning


def test_data_pruning_weights_follow_the_fraction() -> None:
    """(1 - a) CE + a KL with a = 1 - f / 2 within [1/2, 1]; the teacher saw all rows, the student a part."""
    recipe = load_recipe("methods/data-pruning-kd")
    fraction = recipe.nodes["part"].config.budget.keep_fraction  # type: ignore[attr-defined]
    share = min(1.0, max(0.5, 1 - 0.5 * fraction))
    weights = config_of("data-pruning-kd").reduction.weights
    assert weights == pytest.approx({"next_token": 1 - share, "forward_kl": share})
    assert recipe.nodes["lesson"].inputs["data"] == ("questions",) and recipe.nodes["student"].inputs["data"] == (
        "part",
    )
    assert recipe.nodes["teacher"].inputs["students"] == ("lesson",)


def test_data_pruning_teacher_helps_most_where_little_is_left() -> None:
    """Handwritten digits: a teacher of all of them, students of a twentieth, with and without wrong labels."""
    images, labels, test_images, test_labels = digits()
    generator = torch.Generator().manual_seed(0)
    teacher = fitted(reduction_of("data-pruning-kd", "objectives={next_token: 1.0}"), images, labels, None)
    with torch.no_grad():
        logprobs = teacher(images).log_softmax(-1)
    chosen = torch.randperm(len(images), generator=generator)[: len(images) // 20]
    wrong = torch.randint(10, (len(labels),), generator=generator)
    noisy = torch.where(torch.rand(len(labels), generator=generator) < 0.3, wrong, labels)
    results = {}
    for name, given in (("clean", labels), ("noisy", noisy)):
        for share in (0.0, 0.5, 1.0):
            reduction = reduction_of("data-pruning-kd", f"objectives={{next_token: {1 - share}, forward_kl: {share}}}")
            student = fitted(reduction, images[chosen], given[chosen], logprobs[chosen])
            results[name, share] = float((student(test_images).argmax(-1) == test_labels).float().mean())
    assert results["clean", 1.0] >= results["clean", 0.0] + 0.02
    assert results["noisy", 1.0] > results["noisy", 0.5] > results["noisy", 0.0]


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels, dtype=torch.float32) / 16.0, torch.tensor(digits)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    train, test = order[:1200], order[1200:]
    return images[train], labels[train], images[test], labels[test]


def fitted(
    reduction: Reduction, images: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor | None
) -> torch.nn.Module:
    """Fit a small network by the preset's own objectives, classes taking the place of tokens."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    counts = dict.fromkeys(reduction.objectives, len(labels))
    for _ in range(250):
        teacher = None if teacher_logits is None else TableTeacher(teacher_logits)
        loss, _ = token_loss(reduction, net(images), OutputHead(torch.eye(10)), Targets(labels), counts, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


# Skill-SD


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


# SD-Zero


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


# Self-Judge


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
