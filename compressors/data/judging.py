"""A model as a judge. It gives an answer a grade from 0 to 9, read off the probabilities of the ten digits.

https://arxiv.org/abs/2409.00935. The wording is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.data.styles import filled

NUM_GRADES = 10
JUDGE_TEMPLATE = "Question:\n{question}\n\nAnswer:\n{answer}\n\nHow good is this answer, from 0 (useless) to 9 (perfect)? Reply with one digit."
# what is put behind it where the judge may see how it should be
REFERENCE_TEMPLATE = "{question}\n\nReference answer:\n{hint}"


def judge_question(question: str, answer: str, template: str = JUDGE_TEMPLATE) -> str:
    """Return what a judge is asked without seeing a reference."""
    return filled(template, question=question, answer=answer)


def digit_ids(tokenizer: Any) -> list[int]:
    """Return the token of each digit from 0 to 9. Raises ValueError when one is not a single token of its own."""
    token_ids = [tokenizer(str(grade), add_special_tokens=False).input_ids for grade in range(NUM_GRADES)]
    wrong = [str(grade) for grade, ids in enumerate(token_ids) if len(ids) != 1]
    if wrong or len({ids[0] for ids in token_ids}) < NUM_GRADES:
        raise ValueError(
            f"a judge grades by one token, but the tokenizer has none for {', '.join(wrong) or 'each digit'}"
        )
    return [ids[0] for ids in token_ids]


def expected_grade(logits: Float[Tensor, "N V"], digits: Sequence[int]) -> Float[Tensor, "N"]:
    """Return sum_d d P(d) / sum_d P(d) over the ten digits, in [0, 9]."""
    shares = logits[:, list(digits)].float().softmax(dim=-1)
    return shares @ torch.arange(NUM_GRADES, dtype=shares.dtype, device=shares.device)


def selective_accuracy(
    scores: Sequence[float], is_right: Sequence[bool], keep_fractions: Sequence[float]
) -> list[float]:
    """Return the share of right answers among the best-scored part, for each part. Parts are in (0, 1]; ties go to the earlier row."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    ranked = [is_right[index] for index in order]
    counts = [max(1, round(fraction * len(ranked))) for fraction in keep_fractions]
    return [sum(ranked[:count]) / count for count in counts]
