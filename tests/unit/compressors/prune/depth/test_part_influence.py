"""Influence of parts: 0 for a silent one, the cosine by hand for others, and the two of a block from the states around it."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.models.exits import attention_exit, feed_forward_exit
from attar.compressors.prune.depth.part_influence import PartInfluence
from attar.compressors.prune.depth.scan import residual_stream
from attar.stages.ingest.tiny_model import random_model

IDS = torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))
COUNTED = torch.ones_like(IDS, dtype=torch.bool)
COUNTED[1, 12:] = False


def influence(model) -> dict[str, list[float]]:
    scan = PartInfluence()
    with torch.no_grad(), scan.watching(model, COUNTED):
        model(input_ids=IDS, use_cache=False)
    return scan.scores()


@pytest.mark.parametrize("family", ["llama", "granite", "opt", "gpt2"])
def test_a_silent_part_has_no_influence(family: str) -> None:
    model, _ = random_model(family)
    with torch.no_grad():
        for matrix in (attention_exit(model, 1), feed_forward_exit(model, 2)):
            matrix.weight.zero_()
            if matrix.bias is not None:
                matrix.bias.zero_()
    scores = influence(model)
    assert scores["attention"][1] == pytest.approx(0.0, abs=1e-6)
    assert scores["feed_forward"][2] == pytest.approx(0.0, abs=1e-6)
    others = [scores["attention"][0], scores["attention"][2], scores["feed_forward"][0], scores["feed_forward"][1]]
    assert min(others) > 1e-4


def test_a_silent_part_leaves_the_other_the_whole_block() -> None:
    model, _ = random_model("llama")
    with torch.no_grad():
        attention_exit(model, 1).weight.zero_()
        with residual_stream(model) as states:
            model(input_ids=IDS, use_cache=False)
    cosine = torch.cosine_similarity(states[1][COUNTED], states[2][COUNTED], dim=-1)
    assert influence(model)["feed_forward"][1] == pytest.approx(float((1 - cosine).mean()), rel=1e-4)
