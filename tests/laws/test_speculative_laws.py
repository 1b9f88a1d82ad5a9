"""Speculative decoding counted by hand: passes, drafted and accepted tokens, where texts part, and who is timed when."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attar.compressors.measure.speculative import (
    Difference,
    Speculation,
    _counts,
    _first_difference,
    _margin,
    _summary,
    _Text,
    measure_speculation,
)
from attar.stages.ingest.tiny_model import random_model

PROMPT = [7, 8]


def text(token_ids: list[int], passes: list[list[int]], seconds: float = 1.0) -> _Text:
    return _Text(token_ids, seconds, passes)


@pytest.mark.parametrize(
    ("token_ids", "passes", "expected"),
    [
        # without a draft: a token a pass
        ([1, 2, 3], [[7, 8], [1], [2]], [(0, 0), (0, 0), (0, 0)]),
        # 2 of 3 accepted and one of the original's own; then the text ends inside the draft
        ([1, 2, 3, 4, 5], [[7, 8, 1, 2, 9], [3, 4, 5, 6]], [(3, 2), (3, 2)]),
        # none accepted; then all, and one more
        ([1, 2, 3, 4], [[7, 8, 9, 9], [1, 2, 3]], [(2, 0), (2, 2)]),
        # a right token behind a wrong one does not count
        ([1, 2, 3], [[7, 8, 9, 2], [1, 2, 3]], [(2, 0), (2, 2)]),
    ],
)
def test_what_the_original_was_given_beyond_the_last_known_token_is_drafted(
    token_ids: list[int], passes: list[list[int]], expected: list[tuple[int, int]]
) -> None:
    assert list(_counts(len(PROMPT), text(token_ids, passes))) == expected


def test_a_token_that_no_pass_gave_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="every token comes from a pass"):
        list(_counts(len(PROMPT), text([1, 2, 3], [[7, 8]])))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2], [1, 2], None), ([1, 2, 3], [1, 5, 3], 1), ([1, 2], [1], 1), ([], [4], 0), ([3], [4], 0), ([], [], None)],
)
def test_where_two_texts_part(first: list[int], second: list[int], expected: int | None) -> None:
    assert _first_difference(first, second) == expected


class Table:
    """A model of one table: what follows a token, whatever stands before it."""

    device = torch.device("cpu")

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.seen = logits, torch.tensor(0)

    def __call__(self, ids: torch.Tensor) -> SimpleNamespace:
        self.seen = ids
        return SimpleNamespace(logits=self.logits[ids])


def test_the_margin_is_by_how_many_nats_the_original_prefers_its_own() -> None:
    model: Any = Table(torch.tensor([[0.0, 1.0, 4.0], [3.0, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=torch.bfloat16))
    assert _margin(model, [2, 1], [9, 0], [9, 1], 1) == pytest.approx(2.5)
    assert model.seen.tolist() == [[2, 1]]
    assert _margin(model, [2, 0], [1], [2], 0) == pytest.approx(-3.0), "less than nothing: it did not write its best"
    assert _margin(model, [2], [1], [1, 2], 1) == math.inf and _margin(model, [2], [], [2], 0) == math.inf


def test_a_summary_adds_up_prompts() -> None:
    model: Any = Table(torch.eye(10) * 2.0)
    plain = [text([1, 2, 3], [], 2.0), text([1, 2], [], 3.0)]
    assisted = [text([1, 2, 3], [[7, 8, 1, 9], [2, 3, 4]], 0.5), text([1, 4], [[5, 6, 6, 1, 1], [1, 4]], 0.75)]
    run = _summary(model, [PROMPT, [5, 6, 6]], list(zip(plain, assisted, strict=True)), 2)
    assert run == Speculation(
        draft_length=2, num_prompts=2, num_tokens=5, num_steps=4, num_drafted=2 + 2 + 2 + 1, num_accepted=1 + 1 + 1 + 0,
        plain_seconds=5.0, assisted_seconds=1.25, differences=(Difference(1, 1, pytest.approx(0.0)),),
    )  # fmt: skip
    assert (run.acceptance_fraction, run.tokens_per_step, run.gain) == (3 / 7, 5 / 4, 4.0)
    assert model.seen.tolist() == [[5, 6, 6, 1]], "the prompt and what both had written"
    empty = Speculation(2, 0, 0, 0, 0, 0, 1.0, 1.0)
    assert empty.acceptance_fraction == 0.0 and empty.tokens_per_step == 0.0


def test_sides_take_turns_after_a_round_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each length has plain texts of its own, and who goes first changes from prompt to prompt."""
    model, draft = (random_model("llama", num_blocks=1, hidden_size=16)[0] for _ in range(2))
    before, calls, done = draft.generation_config, [], []
    generate = model.generate

    def noted(ids: torch.Tensor, **options: Any) -> torch.Tensor:
        side, config = options["assistant_model"], draft.generation_config
        assert side is None or (config.num_assistant_tokens_schedule, config.assistant_confidence_threshold) == (
            "constant",
            0.0,
        )
        calls.append((ids[0].tolist(), None if side is None else config.num_assistant_tokens))
        assert side is not None or draft.generation_config is before
        assert torch.equal(options["attention_mask"], torch.ones_like(ids))
        config = options["generation_config"]
        assert (config.max_new_tokens, config.do_sample, config.eos_token_id, config.pad_token_id) == (
            3,
            False,
            [4, 6],
            4,
        )
        return generate(ids, **options)

    monkeypatch.setattr(model, "generate", noted)
    prompts = [[5, 9], [7, 8, 3], [6]]
    runs = measure_speculation(
        model, draft, prompts, draft_lengths=(1, 2), max_new_tokens=3, stop_ids=[4, 6], on_text=lambda: done.append(1)
    )
    expected: list[tuple[list[int], int | None]] = [(prompts[0], None), (prompts[0], 1)]
    for length in (1, 2):
        for index, prompt in enumerate(prompts):
            expected += [(prompt, side) for side in ((None, length) if index % 2 == 0 else (length, None))]
    assert calls == expected and len(done) == 12
    assert [(run.draft_length, run.num_prompts) for run in runs] == [(1, 3), (2, 3)]
    assert draft.generation_config is before
    assert all(run.plain_seconds > 0 and run.assisted_seconds > 0 for run in runs)
