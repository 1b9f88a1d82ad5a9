"""A model whose logits are NaN is refused wherever it is measured: an argmax takes NaN for the largest, and chance for an accuracy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attar.compressors.measure.choices import choice_likelihoods
from attar.compressors.measure.closeness import closeness
from attar.compressors.measure.likelihood import continuation_likelihoods, perplexity
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Sampling
from attar.stages.ingest.tiny_model import random_model

PAIR = ([5, 6, 7], [8, 9])


def runner(*, is_broken: bool) -> TorchRunner:
    """A tiny Llama; broken: one token's logit is NaN, as an overflow in half precision leaves it."""
    model, _ = random_model("llama", num_blocks=2, hidden_size=32)
    if is_broken:
        with torch.no_grad():
            model.lm_head.weight[11, 0] = float("nan")
    return TorchRunner(model)


WAYS: dict[str, Callable[[TorchRunner], object]] = {
    "likelihood": lambda model: continuation_likelihoods(model, [PAIR], batch_size=1),
    "perplexity": lambda model: perplexity(model, list(range(20)), window=8, batch_size=2),
    "choices": lambda model: choice_likelihoods(model, [(PAIR[0], [[8, 9], [10]])], batch_size=1),
    "greedy": lambda model: decode(model, [PAIR[0]], max_new_tokens=2, stop_ids=()),
    "sampled": lambda model: decode(
        model, [PAIR[0]], max_new_tokens=2, stop_ids=(), sampling=Sampling(temperature=1.0), seeds=[0]
    ),
    "student": lambda model: closeness(model, runner(is_broken=False), [PAIR], batch_size=1),
    "original": lambda model: closeness(runner(is_broken=False), model, [PAIR], batch_size=1),
}


@pytest.mark.parametrize("way", WAYS)
def test_nan_is_refused_and_numbers_are_not(way: str) -> None:
    WAYS[way](runner(is_broken=False))
    with pytest.raises(ValueError, match="logits are NaN"):
        WAYS[way](runner(is_broken=True))
