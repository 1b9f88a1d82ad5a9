"""Choices scored behind one reading of their question, against each scored with a reading of its own."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.measure.choices import choice_likelihoods
from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.runner import TorchRunner
from attar.stages.ingest.tiny_model import random_model

QUESTIONS = [
    ([5, 6, 7, 8], [[9], [10, 11, 12], [13, 14]]),
    ([20], [[21, 22], [23]]),
    (list(range(30, 60)), [[61, 62, 63, 64, 65], [66]]),
    ([70, 71], [[72], [73], [74], [75]]),
]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma3"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_question_read_once_gives_the_likelihoods_of_one_read_for_each_choice(family: str, batch_size: int) -> None:
    model, _ = random_model(family, num_blocks=2)
    runner = TorchRunner(model)
    pairs = [(context, choice) for context, choices in QUESTIONS for choice in choices]
    with torch.inference_mode():
        expected = [values.logprob_nats for values in continuation_likelihoods(runner, pairs, batch_size=1)]
    counted: list[int] = []
    likelihoods = choice_likelihoods(runner, QUESTIONS, batch_size=batch_size, on_scored=counted.append)
    assert [len(values) for values in likelihoods] == [3, 2, 2, 4] and sum(counted) == 4
    # float32, sums in another order
    assert [value for values in likelihoods for value in values] == pytest.approx(expected, abs=1e-4)
