"""The chunked loss: the plain loss and its gradient, without ever holding logits of all tokens."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attar.compressors.catalogue import build
from attar.compressors.distill.losses.objectives import OBJECTIVES
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import Targets
from attar.compressors.distill.teachers.outputs import LiveTeacher
from attar.compressors.distill.teachers.student import Student
from attar.compressors.models.head import OutputHead, check_head, output_head
from attar.compressors.models.trained_weights import WeightAverage
from attar.stages.ingest.tiny_model import FAMILIES, random_model
from tests.builders import combined, token_loss

NUM_TOKENS, VOCAB, HIDDEN = 37, 53, 8
WEIGHTS = {"next_token": 0.7, "forward_kl": 1.3}


def tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets(num_recorded: int) -> Targets:
    values, ids = (2 * tensor(NUM_TOKENS, VOCAB, seed=1)).log_softmax(-1).topk(num_recorded, dim=-1)
    return Targets(ids[:, 0], ids, values, torch.arange(NUM_TOKENS) % 3 != 0)


REDUCTION = Reduction({name: build(OBJECTIVES, name) for name in WEIGHTS}, WEIGHTS)


@pytest.mark.parametrize("tokens_per_chunk", [1, 8, 37, 1000])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_chunked_loss_and_gradients_equal_the_plain_ones(tokens_per_chunk: int, softcap: float) -> None:
    leaves = tensor(NUM_TOKENS, HIDDEN, seed=2), tensor(VOCAB, HIDDEN, seed=3), tensor(VOCAB, seed=4)
    num_tokens = {"next_token": 50, "forward_kl": 40}

    def losses(is_chunked: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        hidden, weight, bias = (leaf.clone().requires_grad_() for leaf in leaves)
        head = OutputHead(weight, bias, 0.5, softcap)
        if is_chunked:
            loss, _ = token_loss(REDUCTION, hidden, head, targets(5), num_tokens, tokens_per_chunk=tokens_per_chunk)
        else:
            logprobs = head.logits(hidden).log_softmax(-1)
            loss = combined(REDUCTION.objectives, WEIGHTS, logprobs, targets(5), num_tokens)
        (3.0 * loss).backward()  # a factor from outside, as a loss scaler puts one
        return loss, [leaf.grad for leaf in (hidden, weight, bias)]  # type: ignore[misc]

    (plain, plain_gradients), (chunked, chunked_gradients) = losses(False), losses(True)
    torch.testing.assert_close(chunked, plain, atol=1e-5, rtol=1e-5)
    for actual, reference in zip(chunked_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(actual, reference, atol=1e-5, rtol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Notes the largest number of elements that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_tensor_of_all_tokens_by_vocabulary_is_made() -> None:
    hidden = tensor(NUM_TOKENS, HIDDEN, seed=2).requires_grad_()
    head = OutputHead(tensor(VOCAB, HIDDEN, seed=3))
    teacher = LiveTeacher(tensor(NUM_TOKENS, HIDDEN, seed=5), OutputHead(tensor(VOCAB, HIDDEN, seed=6)))
    wanted = targets(5)
    with LargestTensor() as seen:
        num_tokens = {"next_token": 37, "forward_kl": 37}
        loss, _ = token_loss(REDUCTION, hidden, head, wanted, num_tokens, teacher, tokens_per_chunk=4)
        loss.backward()
    assert seen.largest <= max(4 * VOCAB, VOCAB * HIDDEN, NUM_TOKENS * HIDDEN) < NUM_TOKENS * VOCAB


def test_a_live_teacher_and_a_record_of_all_candidates_agree() -> None:
    hidden, head = tensor(NUM_TOKENS, HIDDEN, seed=2), OutputHead(tensor(VOCAB, HIDDEN, seed=3))
    teacher = LiveTeacher(tensor(NUM_TOKENS, HIDDEN, seed=5), OutputHead(tensor(VOCAB, HIDDEN, seed=6)))
    values, ids = teacher.logprobs(slice(None)).topk(VOCAB, dim=-1)
    recorded = Targets(ids[:, 0], ids, values, torch.ones(NUM_TOKENS, dtype=torch.bool))
    num_tokens = {"next_token": NUM_TOKENS, "forward_kl": NUM_TOKENS}
    live = token_loss(REDUCTION, hidden, head, Targets(ids[:, 0]), num_tokens, teacher, tokens_per_chunk=8)
    offline = token_loss(REDUCTION, hidden, head, recorded, num_tokens, tokens_per_chunk=8)
    torch.testing.assert_close(live[0], offline[0], atol=1e-5, rtol=1e-5)
    assert live[1]["forward_kl"][1] == offline[1]["forward_kl"][1] == NUM_TOKENS


@pytest.mark.parametrize("family", FAMILIES)
def test_head_on_hidden_states_gives_the_families_logits(family: str) -> None:
    model, _ = random_model(family)
    check_head(model, output_head(model))  # refuses when they differ
    shifted = OutputHead(output_head(model).weight * 1.1)
    with pytest.raises(ValueError, match="not a plain output head"):
        check_head(model, shifted)
    Student(model.requires_grad_(False))


def test_average_is_the_sum_of_past_weights_with_falling_shares() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(0.75, {"weight": torch.tensor([[8.0]])})
    for value in (4.0, 0.0):
        torch.nn.init.constant_(layer.weight, value)
        average.update(layer)
    assert average.weights["weight"].item() == pytest.approx(0.75 * (0.75 * 8 + 0.25 * 4) + 0.25 * 0)
