"""Laws of writing by filling masks: how many passes, that the cache says what a whole pass says, that training needs fewer (dParallel)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.compressors.distill.examples.masked import HiddenView, hide
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.teachers.student import Student
from attar.compressors.masked.filling import AboveProbability, BelowEntropy, FillRule, filled_now
from attar.compressors.masked.hiding import Complements
from attar.compressors.masked.runner import MaskedRunner
from tests.unit.compressors.masked.small_filler import (
    CROSS_ENTROPY,
    END,
    FORCED,
    FORM,
    MASK,
    TEXTS,
    small_model,
    trained,
)

PROMPTS = [prompt for prompt, _ in TEXTS]
ONE_A_PASS = (BelowEntropy(max_nats=0.0), AboveProbability(min_probability=1.0))


@pytest.fixture(scope="module")
def filler() -> Any:
    model = small_model()
    trained(model, 60)
    return model


def written(model: Any, rule: FillRule, *, batch_size: int = 8, max_new_tokens: int = 12, stops: Any = (END,)) -> Any:
    runner = MaskedRunner(model, FORM, rule)
    return runner.fill(PROMPTS, max_new_tokens=max_new_tokens, stop_ids=stops, batch_size=batch_size)


@pytest.mark.parametrize("rule", ONE_A_PASS)
def test_a_rule_that_is_never_sure_fills_one_a_pass(rule: FillRule) -> None:
    """Without an end every token is a pass; an end before which all is filled saves what is behind it."""
    texts = written(small_model(), rule, stops=())
    assert [text.num_forwards for text in texts] == [len(text.token_ids) for text in texts] == [12] * 3


@pytest.mark.parametrize("rule", [*ONE_A_PASS, BelowEntropy(max_nats=3.0), AboveProbability(min_probability=0.0)])
def test_passes_end_and_are_at_most_the_tokens(filler: Any, rule: FillRule) -> None:
    for text in written(filler, rule, max_new_tokens=10):
        assert 1 <= text.num_forwards <= 4 * -(-len(text.token_ids) // 4)
        assert len(text.token_ids) <= 10 and MASK not in text.token_ids
        assert END not in text.token_ids[:-1], "nothing stands behind an end"


def test_a_rule_that_is_always_sure_takes_a_pass_a_block() -> None:
    texts = written(small_model(), BelowEntropy(max_nats=1e9), stops=(), max_new_tokens=10)
    assert [text.num_forwards for text in texts] == [3, 3, 3]


def test_the_surest_is_filled_where_none_is_sure() -> None:
    doubt = torch.tensor([[0.4, 0.1, 0.3], [0.4, 0.1, 0.3]])
    is_masked = torch.tensor([[True, False, True], [False, False, False]])
    now = filled_now(doubt, torch.zeros(2, 3, dtype=torch.bool), is_masked)
    assert now.tolist() == [[False, False, True], [False, False, False]]


def test_a_model_writes_what_it_learned_alone_and_in_a_batch(filler: Any) -> None:
    for rule in (BelowEntropy(max_nats=0.0), BelowEntropy(max_nats=0.5)):
        together, alone = (written(filler, rule, batch_size=size) for size in (8, 1))
        assert together == alone
        assert [text.token_ids for text in together] == [answer for _, answer in TEXTS]


def test_a_cached_pass_says_what_training_sees(filler: Any) -> None:
    """The second block of a text, with one of its tokens known, beside the whole text in one pass."""
    prompt, answer = TEXTS[1]
    seen: list[torch.Tensor] = []

    class Watched:
        def __call__(self, logprobs: torch.Tensor) -> Any:
            seen.append(logprobs)
            return BelowEntropy(max_nats=0.0)(logprobs)

    MaskedRunner(filler, FORM, Watched()).fill([prompt], max_new_tokens=8, stop_ids=())
    example = Example(prompt, [*answer, END, END])
    hidden = torch.tensor([False] * 4 + [True] * 4)
    batch = hide(collate([example], [0], is_packed=False), [HiddenView(example, hidden)], FORM)
    with torch.no_grad():
        logits = Student(filler).eval().logits(batch)
    logits[:, MASK] = -torch.inf
    torch.testing.assert_close(seen[4][0], logits.log_softmax(dim=-1), atol=1e-4, rtol=0)


def test_a_model_that_is_sure_of_what_it_learned_takes_at_most_half_the_passes(filler: Any) -> None:
    passes = [
        sum(text.num_forwards for text in written(filler, BelowEntropy(max_nats=nats), max_new_tokens=8))
        for nats in (0.0, 0.5)
    ]
    assert passes[1] <= passes[0] / 2 and passes[0] <= 4 * 4, passes  # of four blocks


def test_certainty_fills_at_once_what_the_data_leave_in_doubt() -> None:
    """Each token is another in one of five texts: .5 nats of doubt stay under cross-entropy, and a token a pass. Certainty goes below."""
    usual, rare = 40, 50
    answers = [[rare if index == number else usual for index in range(4)] for number in range(5)]
    texts = [Example(PROMPTS[0], answer) for answer in answers]
    passes = {}
    for name, reduction in (("cross-entropy", CROSS_ENTROPY), ("certainty", FORCED)):
        model = small_model()
        trained(model, 60, texts=texts)
        trained(model, 40, rule=Complements(), reduction=reduction, texts=texts)
        runner = MaskedRunner(model, FORM, BelowEntropy(max_nats=0.45))
        [text] = runner.fill(PROMPTS[:1], max_new_tokens=4, stop_ids=())
        passes[name] = text.num_forwards
    assert text.token_ids == [usual] * 4
    assert passes["certainty"] <= 2 < passes["cross-entropy"], passes
