"""Objectives of components: recorded and live teachers, weights, routes, and a step that may be split."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.distill.examples.sample_facts import SampleFacts, group_advantages, is_routed
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.catalogue import DIVERGENCES
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.divergences.listwise import AnchoredListwise
from attar.compressors.distill.losses.listwise import ListwiseDistil
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Identity, Mix, Temper
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.views import Targets
from attar.compressors.distill.losses.weights.coefficients import LinearRamp, SwitchDivergence
from attar.compressors.distill.losses.weights.sample_weights import (
    BetaKernel,
    DivergenceAware,
    SelfPaced,
    teacher_score,
)
from attar.compressors.distill.losses.weights.token_weights import (
    Clip,
    Confident,
    Correct,
    EntropyWeight,
    Gate,
    Opener,
    TopEntropy,
)
from attar.compressors.distill.teachers.outputs import LiveTeacher
from attar.compressors.models.head import OutputHead
from tests.builders import terms_of, token_loss

NUM_TOKENS, VOCAB, HIDDEN = 12, 17, 8
# what a record of candidates can stand in for, and what it cannot
F_DIVERGENCES = [
    name
    for name in DIVERGENCES
    if build(DIVERGENCES, name).traits.needs_target and not build(DIVERGENCES, name).traits.needs_whole
]
WHOLE = [name for name in DIVERGENCES if build(DIVERGENCES, name).traits.needs_whole]


def logprobs(seed: int) -> torch.Tensor:
    return (2 * torch.randn(NUM_TOKENS, VOCAB, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def targets(teacher: torch.Tensor, num_recorded: int) -> Targets:
    values, ids = teacher.topk(num_recorded, dim=-1)
    return Targets(
        torch.arange(NUM_TOKENS) % VOCAB, ids, values, torch.ones(NUM_TOKENS, dtype=torch.bool), stats=stats()
    )


def stats(**changes: object) -> TokenStats:
    facts = tuple(
        SampleFacts(old_logprobs=torch.full((4,), -1.0), advantage=float(i) - 1.0, reward=float(i), group=0)
        for i in range(3)
    )
    return replace(TokenStats(torch.arange(NUM_TOKENS) // 4, facts), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if build(DIVERGENCES, name).traits.needs_target])
@pytest.mark.parametrize("target", [Identity(), Mix(share=0.3), Temper(temperature=1.7)])
def test_a_record_of_the_whole_vocabulary_is_the_live_teacher(name: str, target: object) -> None:
    teacher, student = logprobs(0), logprobs(1)
    objective = Distil(divergence=build(DIVERGENCES, name), target=target)  # type: ignore[arg-type]
    recorded = targets(teacher, VOCAB)
    live = Targets(recorded.next_ids, teacher_full=teacher, stats=recorded.stats)
    offline, online = terms_of(objective, student, recorded), terms_of(objective, student, live)
    torch.testing.assert_close(offline[0], online[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(offline[1], online[1])


# without cross_entropy, which is no divergence: coarser outcomes change the target's entropy too
@pytest.mark.parametrize("name", [name for name in F_DIVERGENCES if name != "cross_entropy"])
def test_candidates_give_a_lower_bound_that_grows_to_the_whole(name: str) -> None:
    teacher, student = logprobs(0), logprobs(1)
    objective = Distil(divergence=build(DIVERGENCES, name))
    values = torch.stack([terms_of(objective, student, targets(teacher, k))[0] for k in range(1, VOCAB + 1)])
    assert (values >= -1e-5).all() and (values.diff(dim=0) >= -2e-4 * (1 + values[-1])).all()


@pytest.mark.parametrize("name", WHOLE)
def test_what_needs_the_whole_distribution_refuses_candidates(name: str) -> None:
    if not build(DIVERGENCES, name).traits.needs_target:
        return
    with pytest.raises(ValueError, match="whole distribution, but 4 of 17 tokens are recorded"):
        terms_of(Distil(divergence=build(DIVERGENCES, name)), logprobs(1), targets(logprobs(0), 4))
    tempered = Distil(divergence=ForwardKL(), target=Temper(temperature=2.0))
    with pytest.raises(ValueError, match="whole distribution"):
        terms_of(tempered, logprobs(1), targets(logprobs(0), 4))


def test_labels_on_a_record_get_the_mean_of_the_rest() -> None:
    """A target half label, half recorded teacher; where the label is no candidate, it has rest / (V - K) of the teacher."""
    teacher, student, num_recorded = logprobs(0), logprobs(1), 4
    recorded = targets(teacher, num_recorded)
    loss, _ = terms_of(Distil(divergence=ForwardKL(), target=Mix(share=0.5)), student, recorded)
    assert recorded.teacher_ids is not None
    for token in range(NUM_TOKENS):
        label, candidates = int(recorded.next_ids[token]), set(recorded.teacher_ids[token].tolist())
        named = sorted(candidates | {label})
        p = {token_id: float(teacher[token, token_id].exp()) if token_id in candidates else None for token_id in named}
        rest = 1 - sum(value for value in p.values() if value is not None)
        p = {token_id: rest / (VOCAB - num_recorded) if value is None else value for token_id, value in p.items()}
        p = {token_id: 0.5 * value + 0.5 * (token_id == label) for token_id, value in p.items()}
        q = {token_id: float(student[token, token_id].exp()) for token_id in named}
        expected = sum(p[token_id] * torch.tensor(p[token_id] / q[token_id]).log().item() for token_id in named)
        p_rest, q_rest = 1 - sum(p.values()), 1 - sum(q.values())
        expected += p_rest * torch.tensor(p_rest / q_rest).log().item()
        assert float(loss[token]) == pytest.approx(expected, abs=2e-5)


def test_gate_is_half_between_equals_and_one_where_the_student_alone_is_unsure() -> None:
    known = stats(
        student_entropy=torch.tensor([1.0, 30.0, 0.0] * 4), teacher_entropy=torch.tensor([1.0, 0.0, 30.0] * 4)
    )
    weighted = Gate()(torch.ones(NUM_TOKENS), known, slice(None))
    torch.testing.assert_close(weighted[:3], torch.tensor([0.5, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_clip_bounds_the_loss_and_stops_the_gradient_beyond() -> None:
    loss = torch.tensor([0.5, 3.0], requires_grad=True)
    clipped = Clip(limit_nats=1.0)(loss, stats(), slice(None))
    clipped.sum().backward()
    assert clipped.tolist() == [0.5, 1.0] and loss.grad is not None and loss.grad.tolist() == [1.0, 0.0]
    assert Clip(limit_nats=float("inf"))(loss, stats(), slice(None)).tolist() == [0.5, 3.0]


def test_opener_is_per_sequence_and_grows_with_its_share() -> None:
    entropy = torch.tensor([9.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 5.0, 5.0])
    known = stats(student_entropy=entropy)
    assert Opener(entropy_fraction=0.1).mask(known).tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0]
    sizes = [float(Opener(entropy_fraction=c).mask(known).sum()) for c in (0.1, 0.5, 0.9, 1.0)]
    assert sizes == sorted(sizes)


def test_top_entropy_touches_exactly_its_share_and_averages_over_it() -> None:
    entropy = torch.arange(NUM_TOKENS, dtype=torch.float32)
    mask = TopEntropy(fraction=0.3).mask(stats(student_entropy=entropy))  # ceil(0.3 * 4) = 2 of each sequence
    assert mask.tolist() == [0, 0, 2, 2] * 3
    mask = TopEntropy(fraction=0.1).mask(stats(student_entropy=-entropy))
    assert mask.tolist() == [4, 0, 0, 0] * 3


def test_masks_keep_what_they_say() -> None:
    known = stats(
        student_entropy=torch.arange(NUM_TOKENS, dtype=torch.float32), is_first_choice=torch.arange(NUM_TOKENS) % 2 == 0
    )
    loss = torch.ones(NUM_TOKENS)
    assert Confident(max_entropy_nats=2.0)(loss, known, slice(None)).sum() == 3
    assert Correct()(loss[2:6], known, slice(2, 6)).tolist() == [1, 0, 1, 0]


def test_beta_kernel_peaks_where_it_says_and_is_zero_at_the_ends() -> None:
    kernel = BetaKernel(alpha=2.0, beta=1.0)
    rates = [i / 300 for i in range(301)]
    assert max(rates, key=kernel.at) == pytest.approx(2 / 3, abs=1e-9)
    assert kernel.at(0.0) == kernel.at(1.0) == 0.0
    assert {BetaKernel(alpha=0.0, beta=0.0).at(rate) for rate in rates} == {1.0}
    with pytest.raises(ValueError, match="reads pass_rate, but a row has none"):
        kernel([SampleFacts()], [])


def test_self_paced_takes_the_easy_ones_and_more_as_kappa_grows() -> None:
    losses = [0.5, 3.0, 1.0]
    samples = [SampleFacts()] * 3
    assert SelfPaced(kappa_nats=1.5)(samples, losses) == [1.0, 0.0, 1.0]
    assert SelfPaced(kappa_nats=1e9)(samples, losses) == [1.0] * 3
    soft = SelfPaced(kappa_nats=1.0, is_hard=False)(samples, losses)
    assert soft[0] > soft[2] > soft[1] > 0


def test_teacher_score_counts_the_teachers_sentences_whatever_their_length() -> None:
    student = torch.tensor([-2.0, -2.0, -1.0, -1.0])
    teacher = torch.tensor([-1.0, -1.0, -1.0, -1.0])
    assert teacher_score(teacher, student, [2, 4]) == 0.5
    assert teacher_score(student, student, [2, 4]) == 0.0
    doubled = [logprobs.repeat_interleave(2) for logprobs in (teacher, student)]
    assert teacher_score(*doubled, [4, 8]) == 0.5
    assert DivergenceAware(min_score=0.4)([SampleFacts(score=0.5), SampleFacts(score=0.3)], []) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("is_correct", "has_hint", "goes"), [(1, 1, "correct"), (1, 0, "correct"), (0, 1, "wrong"), (0, 0, "correct")]
)
def test_each_sequence_goes_one_way(is_correct: int, has_hint: int, goes: str) -> None:
    fact = SampleFacts(is_correct=bool(is_correct), has_hint=bool(has_hint))
    assert [is_routed(fact, "correct"), is_routed(fact, "wrong")] == [goes == "correct", goes == "wrong"]


def test_advantages_are_centered_and_equal_rewards_have_none() -> None:
    assert group_advantages([1.0, 1.0, 1.0]) == [0.0] * 3
    values = group_advantages([1.0, 0.0, 0.0, 1.0])
    assert sum(values) == pytest.approx(0.0) and values[0] == pytest.approx(0.5 / (0.57735 + 1e-4), rel=1e-4)


def test_ramp_ends_at_its_end_and_switch_changes_the_direction() -> None:
    objective = Distil(divergence=ForwardKL(), target=Mix(share=0.0))
    ramp = LinearRamp(parameter="target.share", end=0.8)
    shares = [ramp.at(objective, 1.0, Clock(0, 10, epoch, 4))[0].target.share for epoch in range(4)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8])
    switch = SwitchDivergence(to=ReverseKL(), at_fraction=0.5)
    kinds = [type(switch.at(objective, 1.0, Clock(step, 4, 0, 1))[0].divergence) for step in range(4)]
    assert kinds == [ForwardKL, ForwardKL, ReverseKL, ReverseKL]
    with pytest.raises(ValueError, match=r"parameter 'target.shaer' is not there|'shaer' is not there"):
        LinearRamp(parameter="target.shaer", end=1.0).at(objective, 1.0, Clock(0, 1, 0, 1))


def chunked(objective: object, known: TokenStats, size: int, teacher: LiveTeacher) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = torch.randn(NUM_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2)).requires_grad_()
    head = OutputHead(torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(3)))
    reduction = Reduction({"one": objective}, {"one": 1.0})  # type: ignore[dict-item]
    wanted = Targets(torch.arange(NUM_TOKENS) % VOCAB, stats=known)
    loss, _ = token_loss(
        reduction, hidden, head, wanted, {"one": NUM_TOKENS}, teacher, anchor=teacher, tokens_per_chunk=size
    )
    loss.backward()
    assert hidden.grad is not None
    return loss.detach(), hidden.grad


@pytest.mark.parametrize(
    "objective",
    [
        Distil(divergence=ForwardKL(), token_weights=(Gate(), Clip(limit_nats=2.0))),
        Distil(divergence=ReverseKL(), token_weights=(Opener(entropy_fraction=0.6),)),
        Distil(
            divergence=ForwardKL(),
            token_weights=(TopEntropy(fraction=0.5),),
            sample_weight=SelfPaced(kappa_nats=4.0, is_hard=False),
        ),
        ListwiseDistil(divergence=AnchoredListwise()),
        ListwiseDistil(divergence=AnchoredListwise(anchor="target", tau=0.7)),
    ],
)
def test_chunks_change_nothing_where_a_weight_looks_at_the_whole_batch(objective: object) -> None:
    teacher = LiveTeacher(
        torch.randn(NUM_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(5)),
        OutputHead(torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(6))),
    )
    whole, small = chunked(objective, stats(), 100, teacher), chunked(objective, stats(), 5, teacher)
    torch.testing.assert_close(small[0], whole[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(small[1], whole[1], atol=1e-6, rtol=1e-5)
    assert whole[1].abs().max() > 1e-4


def test_listwise_gradient_is_that_of_the_plain_formula() -> None:
    hidden = torch.randn(NUM_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(2)).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(3))
    next_ids, known = torch.arange(NUM_TOKENS) % VOCAB, stats()
    own = (hidden @ weight.T).log_softmax(-1).gather(-1, next_ids[:, None]).squeeze(-1)
    ratios = (own + 1.0).reshape(3, 4).sum(-1)  # the old policy's are -1
    rewards = torch.tensor([0.0, 1.0, 2.0])
    preference = ((rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-8) / 0.5).softmax(0)
    loss = -(preference * ratios.log_softmax(0)).sum()
    (expected,) = torch.autograd.grad(loss, hidden)
    objective = ListwiseDistil(divergence=AnchoredListwise(tau=1.0))
    reduction = Reduction({"one": objective}, {"one": 1.0})
    wanted = Targets(next_ids, stats=known)
    actual, sums = token_loss(reduction, hidden, OutputHead(weight), wanted, {"one": 1}, tokens_per_chunk=5)
    actual.backward()
    assert float(actual.detach()) == pytest.approx(float(loss.detach()), abs=1e-5) and sums["one"][1] == 1, "one group"
    torch.testing.assert_close(hidden.grad, expected, atol=1e-5, rtol=1e-4)


def test_teacher_gets_no_gradient() -> None:
    states = torch.randn(NUM_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(5)).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(6)).requires_grad_()
    chunked(Distil(divergence=ForwardKL()), stats(), 5, LiveTeacher(states, OutputHead(weight)))
    assert states.grad is None and weight.grad is None


def test_entropy_weight_needs_its_mean_over_the_step() -> None:
    weight = EntropyWeight(beta=1.0)
    known = stats(teacher_entropy=torch.arange(NUM_TOKENS, dtype=torch.float32))
    raw = weight.raw(known)
    known = replace(known, means={(weight, "all"): float(raw.mean())})
    objective = Distil(divergence=ForwardKL(), token_weights=(weight,))
    plain = terms_of(
        Distil(divergence=ForwardKL()),
        logprobs(1),
        Targets(torch.zeros(NUM_TOKENS, dtype=torch.long), teacher_full=logprobs(0)),
    )[0]
    actual = terms_of(
        objective,
        logprobs(1),
        Targets(torch.zeros(NUM_TOKENS, dtype=torch.long), teacher_full=logprobs(0), stats=known),
    )[0]
    shares = actual / plain
    assert float(shares.mean()) == pytest.approx(1.0, abs=1e-5) and (shares.diff() < 0).all()
