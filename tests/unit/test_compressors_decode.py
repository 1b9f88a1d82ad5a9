"""Decoding: a batch gives what each prompt alone gives, and sampling obeys its parameters."""

from __future__ import annotations

import torch

from compressors.measure.decode import Sampling, decode
from compressors.measure.likelihood import continuation_likelihoods, perplexity
from compressors.measure.runner import TorchRunner
from stages.tiny_model import random_model

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17], [20, 21]]


def runner() -> TorchRunner:
    return TorchRunner(random_model("llama")[0])


def test_batch_with_left_padding_equals_each_prompt_alone() -> None:
    together = decode(runner(), PROMPTS, max_new_tokens=12, stop_ids=())
    for prompt, generation in zip(PROMPTS, together, strict=True):
        [alone] = decode(runner(), [prompt], max_new_tokens=12, stop_ids=())
        assert generation.token_ids == alone.token_ids


def test_rows_that_finish_leave_the_batch_without_disturbing_the_others() -> None:
    free = decode(runner(), PROMPTS, max_new_tokens=12, stop_ids=())
    stop = free[0].token_ids[2]
    stopped = decode(runner(), PROMPTS, max_new_tokens=12, stop_ids=[stop])
    for long, short in zip(free, stopped, strict=True):
        end = long.token_ids.index(stop) + 1 if stop in long.token_ids else 12
        assert short.token_ids == long.token_ids[:end]
        assert short.is_finished == (stop in long.token_ids)


def test_recorded_candidates_are_the_models_own_distribution() -> None:
    model = random_model("llama")[0]
    [generation] = decode(TorchRunner(model), [PROMPTS[2]], max_new_tokens=6, stop_ids=(), num_recorded=259)
    ids = torch.tensor([[*PROMPTS[2], *generation.token_ids]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    for step in range(6):
        recorded = torch.empty(259).scatter(0, generation.top_ids[step], generation.top_logprobs[step])
        # float32, cache against no cache
        torch.testing.assert_close(recorded, logprobs[len(PROMPTS[2]) - 1 + step], atol=1e-4, rtol=0)


def test_a_generator_repeats_its_sampling_and_top_p_keeps_the_head() -> None:
    logprobs = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(2000, 4)
    draws = [
        Sampling(temperature=1.0, top_p=0.75, generator=torch.Generator().manual_seed(3)).pick(logprobs)
        for _ in range(2)
    ]
    assert torch.equal(*draws)
    shares = draws[0].bincount(minlength=4) / 2000
    assert shares[2:].sum() == 0, "0.5 + 0.3 covers 0.75"
    assert abs(shares[0].item() - 0.625) < 0.04  # three standard errors of 2000 draws


def test_greedy_continuation_is_scored_as_greedy() -> None:
    [generation] = decode(runner(), [PROMPTS[0]], max_new_tokens=4, stop_ids=())
    other = [(token + 1) % 259 for token in generation.token_ids]
    pairs = [(PROMPTS[0], generation.token_ids), (PROMPTS[0], other)]
    greedy, strange = continuation_likelihoods(runner(), pairs, batch_size=2)
    assert greedy.is_greedy and not strange.is_greedy
    assert greedy.logprob_nats > strange.logprob_nats


def test_perplexity_of_a_uniform_model_is_the_vocabulary() -> None:
    model, _ = random_model("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    ids = list(range(3, 103))
    assert abs(perplexity(TorchRunner(model), ids, window=32, batch_size=2) - 259) < 1e-2
