"""Speculative decoding changes how fast the original speaks, never what it says."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.measure.speculative import Speculation, measure_speculation
from attar.compressors.models.blocks import remove_blocks
from attar.stages.ingest.tiny_model import random_model

PROMPTS = [[5, 9, 40, 41], [7, 8], [100, 3, 50, 60, 70, 200]]


def original():
    return random_model("llama", num_blocks=4, seed=3)[0]


def pruned(*blocks: int):
    model = original()
    remove_blocks(model, list(blocks))
    return model


def measure(draft, lengths=(3,), **options) -> list[Speculation]:
    options = {"max_new_tokens": 24, "stop_ids": [], **options}
    return measure_speculation(original(), draft, PROMPTS, draft_lengths=lengths, **options)


def test_the_original_as_its_own_draft_has_every_token_accepted() -> None:
    [run] = measure(original())
    assert run.acceptance_fraction == 1.0 and run.differences == ()
    # 24 tokens in steps of 3 drafted and 1 of its own
    assert run.num_tokens == 72 and run.num_steps == 18 and run.tokens_per_step == 4.0
    assert run.num_drafted == run.num_accepted == 54


@pytest.mark.parametrize("removed", [(1,), (1, 2), (0, 1, 2)])
def test_any_draft_leaves_the_text_as_it_was(removed: tuple[int, ...]) -> None:
    """The draft is a stranger here (random weights): few tokens are accepted, and none is wrong."""
    for run in measure(pruned(*removed), (1, 4)):
        assert run.differences == () and run.num_tokens == 72
        assert 0 <= run.num_accepted < run.num_drafted
        # each step writes what it accepted and one token more; a text may end inside its last step
        assert run.num_accepted + run.num_steps - len(PROMPTS) <= 72 <= run.num_accepted + run.num_steps
        assert 1.0 <= run.tokens_per_step <= run.draft_length + 1
        assert run.plain_seconds > 0 and run.gain == run.plain_seconds / run.assisted_seconds


def test_a_text_that_stops_is_counted_to_its_stop() -> None:
    [whole] = measure(original())
    assert whole.num_tokens == 72
    model = original()
    text = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=24, do_sample=False)[0, 4:].tolist()
    stop = text[5]
    end = text.index(stop) + 1
    [run] = measure_speculation(model, original(), PROMPTS[:1], draft_lengths=(3,), max_new_tokens=24, stop_ids=[stop])
    assert run.num_tokens == end and run.differences == () and run.acceptance_fraction == 1.0


def test_a_text_that_differs_is_found_with_its_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """An original that changes its mind under a draft: the weights are moved before every assisted text."""
    model, draft = original(), pruned(1)
    generate = model.generate

    def unfaithful(*args, assistant_model=None, **kwargs):
        with torch.no_grad():
            model.lm_head.weight.mul_(-1.0 if assistant_model is not None else 1.0)
            output = generate(*args, assistant_model=assistant_model, **kwargs)
            model.lm_head.weight.mul_(-1.0 if assistant_model is not None else 1.0)
        return output

    monkeypatch.setattr(model, "generate", unfaithful)
    [run] = measure_speculation(model, draft, PROMPTS, draft_lengths=(2,), max_new_tokens=8, stop_ids=[])
    assert [difference.prompt_index for difference in run.differences] == [0, 1, 2]
    assert all(difference.token_index == 0 and difference.margin_nats > 0.1 for difference in run.differences)
