"""Decoding: a batch gives what each prompt alone gives, a freed place is used again, and sampling obeys its parameters."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from attar.compressors.measure.likelihood import continuation_likelihoods, perplexity
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Sampling, uniform_numbers
from attar.compressors.models.torch_slots import NUM_SPARE_CELLS, TorchSlots
from attar.stages.ingest.tiny_model import random_model

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17], [20, 21]]


def runner() -> TorchRunner:
    return TorchRunner(random_model("llama")[0])


class WatchedRunner(TorchRunner):
    """Notes how many rows each forward pass had, and how many columns."""

    def __init__(self) -> None:
        super().__init__(random_model("llama")[0])
        self.shapes: list[tuple[int, int, int]] = []

    def forward(self, input_ids, attention_mask, cache, last_only):
        self.shapes.append((*input_ids.shape, attention_mask.shape[1]))
        return super().forward(input_ids, attention_mask, cache, last_only)


def test_batch_with_left_padding_equals_each_prompt_alone() -> None:
    together = decode(runner(), PROMPTS, max_new_tokens=12, stop_ids=())
    for prompt, generation in zip(PROMPTS, together, strict=True):
        [alone] = decode(runner(), [prompt], max_new_tokens=12, stop_ids=())
        assert generation.token_ids == alone.token_ids


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_rows_that_finish_leave_the_batch_without_disturbing_the_others(batch_size: int) -> None:
    free = decode(runner(), PROMPTS, max_new_tokens=12, stop_ids=())
    stop = free[0].token_ids[2]
    stopped = decode(runner(), PROMPTS, max_new_tokens=12, stop_ids=[stop], batch_size=batch_size)
    for long, short in zip(free, stopped, strict=True):
        end = long.token_ids.index(stop) + 1 if stop in long.token_ids else 12
        assert short.token_ids == long.token_ids[:end]
        assert short.is_finished == (stop in long.token_ids)


def test_a_freed_place_is_given_away_at_once() -> None:
    """12 prompts, 2 places: every step but the last ones has two rows, so nothing waits for the longest of a batch."""
    watched = WatchedRunner()
    prompts = [[5 + index, 9] for index in range(12)]
    free = decode(runner(), prompts, max_new_tokens=30, stop_ids=())
    stops = {generation.token_ids[3 + index] for index, generation in enumerate(free)}
    written = decode(watched, prompts, max_new_tokens=30, stop_ids=stops, batch_size=2)
    lengths = [len(answer.token_ids) for answer in written]
    assert len(set(lengths)) > 2, "answers of different lengths, or the test shows nothing"
    steps = [rows for rows, new, columns in watched.shapes if columns > new]
    assert sum(steps) <= sum(lengths) + 2 and len(steps) <= sum(lengths) / 2 + max(lengths)


def test_attention_sees_no_more_than_the_longest_live_row() -> None:
    watched = WatchedRunner()
    decode(watched, [[7] * 40, [8] * 3, [9] * 3, [10] * 3], max_new_tokens=10, stop_ids=(), batch_size=1)
    steps = [columns for _, new, columns in watched.shapes if columns > new]
    assert max(steps) == 40 + 9, "the last token written is never fed"
    assert steps[10:20] == list(range(3, 13)), "the short prompts do not carry the long one's columns"


def test_the_cache_moves_to_its_front_when_it_is_full() -> None:
    """Many short rows through few places outlast the spare columns several times."""
    prompts = [[5 + index] * (1 + index % 4) for index in range(40)]
    free = {tuple(p): decode(runner(), [p], max_new_tokens=20, stop_ids=())[0].token_ids for p in prompts}
    stops = [free[tuple(prompts[0])][9]]
    moves = []
    real = TorchSlots.step

    class Counted(TorchSlots):
        def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
            moves.append(self._end == self._num_cells)
            return real(self, tokens, lengths)

    class CountingRunner(TorchRunner):
        def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> TorchSlots:
            slots = super().open_slots(num_rows, num_prompt, num_new)
            slots.__class__ = Counted
            return slots

    counting = CountingRunner(random_model("llama")[0])
    written = decode(counting, prompts, max_new_tokens=20, stop_ids=stops, batch_size=3)
    assert sum(moves) >= 2 and len(moves) > 2 * NUM_SPARE_CELLS
    for prompt, generation in zip(prompts, written, strict=True):
        expected = free[tuple(prompt)]
        end = expected.index(stops[0]) + 1 if stops[0] in expected else 20
        assert generation.token_ids == expected[:end]


def test_samples_of_one_prompt_share_its_pass() -> None:
    watched = WatchedRunner()
    decode(watched, [[5, 6, 7]] * 4, max_new_tokens=2, stop_ids=(), sampling=Sampling(temperature=1.0))
    assert watched.shapes[0] == (1, 2, 2), "read once, all but its last token"


def test_recorded_candidates_are_the_models_own_distribution() -> None:
    model = random_model("llama")[0]
    [generation] = decode(TorchRunner(model), [PROMPTS[2]], max_new_tokens=6, stop_ids=(), num_recorded=259)
    ids = torch.tensor([[*PROMPTS[2], *generation.token_ids]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)[len(PROMPTS[2]) - 1 : -1]
    assert generation.top_ids is not None and generation.top_logprobs is not None
    recorded = torch.empty(6, 259).scatter(1, generation.top_ids, generation.top_logprobs)
    torch.testing.assert_close(recorded, logprobs, atol=1e-4, rtol=0)  # float32, cache against no cache
    drawn = logprobs.gather(1, torch.tensor(generation.token_ids)[:, None]).sum()
    assert generation.logprob_nats == pytest.approx(float(drawn), abs=1e-3)
    [unscored] = decode(TorchRunner(model), [PROMPTS[2]], max_new_tokens=6, stop_ids=())
    assert unscored.logprob_nats is None and unscored.top_ids is None


def test_a_row_draws_the_same_whatever_batch_it_is_in() -> None:
    prompts = [[5 + index] * (1 + 3 * index % 11) for index in range(10)]
    seeds = [1000 + index for index in range(10)]
    hot = Sampling(temperature=1.0, top_p=0.9)
    options = {"max_new_tokens": 15, "stop_ids": [2, 50, 51], "sampling": hot}
    together = decode(runner(), prompts, seeds=seeds, batch_size=10, **options)
    order = list(range(10))
    random.Random(0).shuffle(order)
    shuffled = decode(runner(), [prompts[i] for i in order], seeds=[seeds[i] for i in order], batch_size=3, **options)
    for row, index in enumerate(order):
        assert shuffled[row].token_ids == together[index].token_ids
    other = decode(runner(), prompts, seeds=[seed + 1 for seed in seeds], batch_size=10, **options)
    assert sum(a.token_ids != b.token_ids for a, b in zip(together, other, strict=True)) >= 8


def test_a_draw_has_the_distributions_shares_and_top_p_keeps_the_head() -> None:
    logits = torch.tensor([[0.15, 0.3, 0.05, 0.5]]).log().expand(4000, 4)
    uniforms = uniform_numbers(3, 4000)
    shares = Sampling(temperature=1.0).pick(logits, uniforms).bincount(minlength=4) / 4000
    torch.testing.assert_close(
        shares, torch.tensor([0.15, 0.3, 0.05, 0.5]), atol=0.025, rtol=0
    )  # three standard errors
    shares = Sampling(temperature=1.0, top_p=0.75).pick(logits, uniforms).bincount(minlength=4) / 4000
    # 0.5 + 0.3 covers 0.75; what is left is scaled to one
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.375, 0.0, 0.625]), atol=0.025, rtol=0)
    shares = Sampling(temperature=0.5).pick(logits, uniforms).bincount(minlength=4) / 4000
    squared = torch.tensor([0.15, 0.3, 0.05, 0.5]).square()
    torch.testing.assert_close(shares, squared / squared.sum(), atol=0.025, rtol=0)
    impossible = torch.tensor([[float("-inf"), 0.0, float("-inf")]]).expand(2, 3)
    assert Sampling(temperature=1.0).pick(impossible, torch.tensor([0.0, 1.0 - 2**-24])).tolist() == [1, 1]


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
