"""A text is held against what the model draws by itself: its own misses by nothing, a changed token by more."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.measure.redrawn import largest_departure
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Sampling
from attar.stages.ingest.tiny_model import random_model

WAYS = [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.7, top_p=0.8)]


@pytest.mark.parametrize("sampling", WAYS)
def test_a_token_that_was_drawn_misses_by_nothing_and_every_other_by_more(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, uniforms = torch.randn(200, 12, generator=generator), torch.rand(200, generator=generator)
    drawn = sampling.pick(logits, uniforms)
    assert sampling.misses(logits, uniforms, drawn).max() < 1e-6
    others = (drawn + 1 + torch.randint(0, 11, (200,), generator=generator)) % 12
    misses = sampling.misses(logits, uniforms, others)
    assert misses.min() >= 0 and (misses > 1e-6).float().mean() > 0.95, "a neighbour may miss by a hair"


@pytest.mark.parametrize("sampling", WAYS)
def test_a_models_own_text_departs_by_rounding_alone_and_a_changed_one_by_more(sampling: Sampling) -> None:
    runner = TorchRunner(random_model("llama")[0])
    [text] = decode(runner, [[5, 6, 7]], max_new_tokens=12, stop_ids=(), sampling=sampling, seeds=[3])
    assert largest_departure(runner, [5, 6, 7], text.token_ids, sampling, 3).miss < 1e-4
    changed = [*text.token_ids[:-1], (text.token_ids[-1] + 40) % 259]
    departure = largest_departure(runner, [5, 6, 7], changed, sampling, 3)
    assert departure.token_index == 11 and departure.miss > 1e-2
