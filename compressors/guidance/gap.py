"""How far one pass is from two. KL of the adapters' distribution, and of the plain base's, to the guided one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.guidance.adapters import Scale
from attar.compressors.guidance.scores import guided_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class GuidedText:
    """What the two branches begin with, what follows in both, and the scale."""

    prompt_ids: Sequence[int]
    unguided_ids: Sequence[int]
    answer_ids: Sequence[int]
    scale: float


@dataclass(frozen=True)
class Gap:
    """Nats a token, lower is closer. Of one pass with adapters and of the plain base, each to the two-pass distribution.

    `kl_*`: KL(that || two passes). `reverse_*`: KL(two passes || that), which training lowers. Where guidance changes nothing (every
    scale is 1) there is no gap to close: the ratio is 0 if one pass leaves none either, else infinite.
    """

    kl_one_pass: float
    kl_plain: float
    reverse_one_pass: float
    reverse_plain: float
    num_tokens: int

    @property
    def ratio(self) -> float:
        """KL(one pass || two passes) / KL(plain || two passes). 1 is no better than no guidance, 0 is guidance itself."""
        return _share(self.kl_one_pass, self.kl_plain)

    @property
    def reverse_ratio(self) -> float:
        """The same with the arguments of both KLs swapped."""
        return _share(self.reverse_one_pass, self.reverse_plain)


@torch.no_grad()
def measure_gap(
    texts: Sequence[GuidedText],
    *,
    student: PreTrainedModel,
    guided_at: Callable[[Scale | None], None],
    teacher: PreTrainedModel,
    unguided: PreTrainedModel,
    on_text: Callable[[int], None] = lambda count: None,
) -> Gap:
    """Compare at every token of the texts' answers, over the whole vocabulary in float32.

    `guided_at` sets the scale of the student's adapters, None switching them off; it is left off.
    """
    sums, num_tokens = torch.zeros(4, dtype=torch.float64), 0
    for text in texts:
        answer = list(text.answer_ids)
        conditional = answer_logits(teacher, text.prompt_ids, answer)
        two_pass = guided_scores(
            conditional, answer_logits(unguided, text.unguided_ids, answer), text.scale
        ).log_softmax(dim=-1)
        guided_at(text.scale)
        one_pass = answer_logits(student, text.prompt_ids, answer).log_softmax(dim=-1)
        guided_at(None)
        plain = answer_logits(student, text.prompt_ids, answer).log_softmax(dim=-1)
        pairs = ((one_pass, two_pass), (plain, two_pass), (two_pass, one_pass), (two_pass, plain))
        sums += torch.tensor([_kl_sum(first, second) for first, second in pairs], dtype=torch.float64)
        num_tokens += len(answer)
        on_text(1)
    kl_one_pass, plain_kl, reverse_one, reverse_plain = (sums / num_tokens).tolist()
    return Gap(kl_one_pass, plain_kl, reverse_one, reverse_plain, num_tokens)


def answer_logits(model: PreTrainedModel, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Float[Tensor, "T V"]:
    """Return the logits that predict each answer token: as the model's own dtype gives them, widened to float32."""
    ids = torch.tensor([[*prompt_ids, *answer_ids][:-1]], device=model.device)
    return model(input_ids=ids, use_cache=False).logits[0, -len(answer_ids) :].float()


def _kl_sum(first: Float[Tensor, "T V"], second: Float[Tensor, "T V"]) -> float:
    return float((first.exp() * (first - second)).sum(dtype=torch.float64))


def _share(left: float, whole: float) -> float:
    if whole:
        return left / whole
    return 0.0 if left == 0.0 else math.inf
