"""The losses beside TRL's: its divergences, DPO's sigmoid loss as the listwise loss of a pair, GRPO's as the clipped ratio."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.divergences.listwise import AnchoredListwise
from attar.compressors.distill.losses.divergences.mixtures import JensenShannon
from attar.compressors.distill.losses.divergences.policy import ClippedRatio, TeacherRatio
from attar.compressors.distill.losses.divergences.sampled import SampledToken
from attar.compressors.distill.losses.traits import Drawn
from attar.compressors.distill.losses.views import Outcomes

# TRL is imported where it is called: every worker reads this file to know its tests, and only the one that runs them should wait.
NUM_TOKENS, VOCAB = 11, 23


def logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(1, NUM_TOKENS, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return logits(0)[0].log_softmax(-1), logits(1)[0].log_softmax(-1)


NOTHING = Drawn(torch.zeros(NUM_TOKENS, dtype=torch.long))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_is_trls_inside_the_interval(beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer
    from trl.experimental.sdft import loss_utils

    target, student = pair()
    actual = JensenShannon(beta=beta)(target, student, NOTHING)
    # float32's log(1 - beta) in TRL's tensor of beta: their mixture is off by some 1e-8
    torch.testing.assert_close(actual, loss_utils.compute_divergence(student, target, beta), atol=1e-6, rtol=1e-6)
    reference = GKDTrainer.generalized_jsd_loss(logits(1), logits(0), beta=beta, reduction="none")
    torch.testing.assert_close(actual, reference.sum(-1)[0], atol=1e-6, rtol=1e-6)


def test_at_the_ends_trl_jumps_to_the_kls_and_ours_says_so() -> None:
    from trl.experimental.sdft import loss_utils

    target, student = pair()
    forward, reverse = ForwardKL()(target, student, NOTHING), ReverseKL()(target, student, NOTHING)
    torch.testing.assert_close(loss_utils.compute_divergence(student, target, 0.0), forward)
    torch.testing.assert_close(loss_utils.compute_divergence(student, target, 1.0), reverse)
    beside = loss_utils.compute_divergence(student, target, 1e-3)
    assert (beside < 0.01 * forward).all(), "a thousandth from its end it is a thousandth of its end"
    for beta in (0.0, 1.0):
        limit = JensenShannon(beta=beta, is_normalized=True)(target, student, NOTHING)
        torch.testing.assert_close(limit, loss_utils.compute_divergence(student, target, beta))


def test_candidates_with_a_rest_are_trls_tail_bucket() -> None:
    from trl.experimental.sdft import loss_utils

    target, student = pair()
    ids = student.topk(5, dim=-1).indices
    fold = Outcomes.of(ids, ids[:, 0], with_labels=False)
    actual = ForwardKL()(fold.fold(target), fold.fold(student), NOTHING)
    reference = loss_utils.compute_topk_self_distillation_loss(
        logits(1)[0], logits(0)[0], distillation_topk=5, distillation_alpha=0.0, distillation_add_tail=True
    )
    torch.testing.assert_close(actual, reference, atol=1e-10, rtol=1e-9)


def test_sampled_token_has_the_gradient_of_trls() -> None:
    from trl.experimental.sdft import loss_utils

    ids = torch.arange(NUM_TOKENS) % VOCAB
    gradients = []
    for is_ours in (True, False):
        student = logits(1)[0].requires_grad_()
        if is_ours:
            own = student.log_softmax(-1)
            old = own.gather(-1, ids[:, None]).squeeze(-1).detach()
            loss = SampledToken()(logits(0)[0].log_softmax(-1), own, Drawn(ids, old))
        else:
            loss = loss_utils.compute_sampled_token_self_distillation_loss(
                student, logits(0)[0], ids, distillation_alpha=1.0
            )
        gradients.append(torch.autograd.grad(loss.sum(), student)[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("tau", [1.0, 10.0])
def test_a_pair_is_dpos_sigmoid_loss(tau: float) -> None:
    """|S| = 2, q = (1, 0), tau = 1 / beta: -log sigmoid(beta (ratio of the chosen - ratio of the rejected))."""
    chosen, rejected = torch.tensor(-0.4, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    actual = AnchoredListwise(tau=tau).group_loss(torch.stack([chosen, rejected]), torch.tensor([1.0, 0.0]).double())
    reference = dpo_loss(chosen, rejected, beta=1.0 / tau)
    torch.testing.assert_close(actual, reference, atol=1e-12, rtol=0)


def dpo_loss(chosen_ratio: torch.Tensor, rejected_ratio: torch.Tensor, beta: float) -> torch.Tensor:
    """Call TRL's DPOTrainer._compute_loss on given log-probabilities: one token a sequence, the reference's at zero."""
    from trl.trainer.dpo_trainer import DPOTrainer

    given = torch.stack([chosen_ratio, rejected_ratio])[:, None]
    outputs = SimpleNamespace(
        log_probs=given,
        entropy=torch.zeros(2, 1),
        mean_logits=torch.zeros(2, 1),
        is_top1=torch.zeros(2, 1, dtype=torch.bool),
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            device=given.device, gather_for_metrics=lambda tensor: tensor, gather=lambda tensor: tensor
        ),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        args=SimpleNamespace(),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros(2, 2, dtype=torch.long),
        "attention_mask": torch.ones(2, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1], [0, 1]]),
        "ref_chosen_logps": torch.zeros(1, dtype=given.dtype),
        "ref_rejected_logps": torch.zeros(1, dtype=given.dtype),
    }
    return DPOTrainer._compute_loss(trainer, lambda **kwargs: outputs, inputs, False)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1])
def test_clipped_ratio_is_grpos_loss_and_gradient(seed: int) -> None:
    """TRL's own loss on a batch of four sequences, with one denominator over all tokens (loss_type dapo)."""
    shapes = 4, 6
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(shapes, generator=generator, dtype=torch.float64)
    start = old + 0.4 * torch.randn(shapes, generator=generator, dtype=torch.float64)
    advantages = torch.randn(4, generator=generator, dtype=torch.float64)
    mask = (torch.arange(6) < torch.tensor([6, 3, 5, 1])[:, None]).int()
    gradients = []
    for name in ("clipped", "teacher_ratio", "trl"):
        own = start.clone().requires_grad_()
        if name == "trl":
            loss = grpo_loss(own, old, advantages, mask)
        else:
            drawn = Drawn(torch.zeros(24, dtype=torch.long), old.flatten(), advantages.repeat_interleave(6))
            # one outcome whose log-probability is the token's own; the teacher's is noise, and counts nothing at alpha 1
            method = ClippedRatio(clip_high=0.28) if name == "clipped" else TeacherRatio(alpha=1.0)
            noise = torch.randn(24, 1, generator=generator, dtype=torch.float64)
            per_token = method(noise, own.flatten()[:, None], drawn)
            loss = (per_token * mask.flatten()).sum() / mask.sum()
        gradients.append((loss.detach(), torch.autograd.grad(loss, own)[0]))
    for value, gradient in gradients[1:]:
        torch.testing.assert_close(value, gradients[0][0], atol=1e-12, rtol=0)
        torch.testing.assert_close(gradient, gradients[0][1], atol=1e-12, rtol=0)
    assert torch.equal(gradients[0][1], gradients[1][1]), "alpha 1 is the clipped ratio bit for bit"


def grpo_loss(own: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Call TRL's GRPOTrainer._compute_loss on given log-probabilities, without a model behind it."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    entropies = torch.zeros_like(own)
    trainer = SimpleNamespace(
        beta=0.0,
        epsilon_low=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        use_bias_correction_kl=False,
        use_liger_kernel=False,
        aux_loss_enabled=False,
        aux_loss_coef=0.0,
        args=SimpleNamespace(delta=None, steps_per_generation=1, gradient_accumulation_steps=1),
        current_gradient_accumulation_steps=1,
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda tensor: tensor, reduce=lambda tensor, reduction: tensor, device=own.device
        ),
        model=SimpleNamespace(training=True),
        tools=None,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (own, entropies, None),
        get_high_entropy_mask=None,
        _entropy_bonus_enabled=False,
    )
    inputs = {
        "prompt_ids": torch.zeros(4, 1, dtype=torch.long),
        "prompt_mask": torch.ones(4, 1, dtype=torch.long),
        "completion_ids": torch.zeros(4, 6, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)  # type: ignore[arg-type]


def test_the_teacher_in_the_ratio_clips_its_likely_tokens_later() -> None:
    """alpha 0, advantage above 0: a token that the teacher likes is still learned where one that it dislikes is clipped."""
    own = torch.full((2,), math.log(0.5), dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[math.log(0.6)], [math.log(0.2)]], dtype=torch.float64)
    drawn = Drawn(
        torch.zeros(2, dtype=torch.long), torch.log(torch.tensor([0.5, 0.5]).double()), torch.ones(2).double()
    )
    TeacherRatio(alpha=0.0)(teacher, own[:, None], drawn).sum().backward()
    assert own.grad is not None and own.grad[0] < 0 and own.grad[1] == 0
    # no advantage, no gradient; a teacher that is the old policy makes alpha irrelevant
    nothing = Drawn(drawn.outcomes, drawn.old_logprobs, torch.zeros(2).double())
    fresh = own.detach().requires_grad_()
    TeacherRatio(alpha=0.3)(teacher, fresh[:, None], nothing).sum().backward()
    assert fresh.grad is not None and (fresh.grad == 0).all()
    assert drawn.old_logprobs is not None
    same = [TeacherRatio(alpha=a)(drawn.old_logprobs[:, None], own.detach()[:, None], drawn) for a in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(same[1], same[2])


def test_listwise_limits_are_the_losses_they_should_be() -> None:
    """S = the vocabulary, a uniform anchor, tau 1: one-hot q is the negative log-likelihood, q = teacher the cross-entropy."""
    target, student = pair()
    anchor = torch.full((VOCAB,), -math.log(VOCAB), dtype=torch.float64)
    loss = AnchoredListwise(tau=1.0).group_loss
    one_hot = torch.nn.functional.one_hot(torch.tensor(3), VOCAB).double()
    torch.testing.assert_close(loss(student[0] - anchor, one_hot), -student[0, 3], atol=1e-12, rtol=0)
    cross = -(target[0].exp() * student[0]).sum()
    torch.testing.assert_close(loss(student[0] - anchor, target[0].exp()), cross, atol=1e-12, rtol=0)
    # the optimum is anchor q^tau, normalised
    tau, old, q = 0.7, student[1], target[2].exp()
    best = (old + tau * q.log()).log_softmax(-1).requires_grad_()
    (gradient,) = torch.autograd.grad(AnchoredListwise(tau=tau).group_loss(best.log_softmax(-1) - old, q), best)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
