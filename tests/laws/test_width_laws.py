"""A narrowed model beside its original with parts silenced, and the numbers of channels and groups that are refused."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from attar.compressors.prune.width.budget import WidthCost
from attar.compressors.prune.width.cut import cut_width, silenced
from attar.stages.ingest.tiny_model import random_model

IDS = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(0))
CHANNELS = [torch.arange(index, 128, 2) for index in (0, 1, 0, 1)]
GROUPS = [torch.tensor([index]) for index in (1, 0, 0, 1)]
COST = WidthCost(
    num_parameters=10_000, num_blocks=4, num_block_parameters=8_000, num_channels=128, channel_parameters=50, num_groups=4,
    group_parameters=300,
)  # fmt: skip


@pytest.mark.parametrize(("channels", "groups"), [(CHANNELS, None), (None, GROUPS), (CHANNELS, GROUPS)])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_cut_computes_what_the_original_does_with_the_others_silenced(
    family: str, channels: list, groups: list
) -> None:
    model = random_model(family)[0].double()
    cut = copy.deepcopy(model)
    cut_width(cut, channels=channels, groups=groups)
    with torch.no_grad():
        whole = model(input_ids=IDS).logits
        with silenced(model, channels=channels, groups=groups):
            expected = model(input_ids=IDS).logits
        torch.testing.assert_close(cut(input_ids=IDS).logits, expected, atol=1e-9, rtol=0)
        torch.testing.assert_close(model(input_ids=IDS).logits, whole, atol=0, rtol=0)
    assert (expected - whole).abs().max() > 1e-2


def test_silence_ends_with_its_block_and_wants_the_units_of_every_block() -> None:
    model = random_model("llama")[0]
    with torch.no_grad():
        whole = model(input_ids=IDS).logits
        with pytest.raises(KeyError), silenced(model, channels=CHANNELS):
            raise KeyError
        assert torch.equal(model(input_ids=IDS).logits, whole)
        with silenced(model):
            assert torch.equal(model(input_ids=IDS).logits, whole)
    with pytest.raises(ValueError, match="zip"), silenced(model, channels=CHANNELS[:3]):
        pass


def test_as_many_groups_as_there_are_cannot_go() -> None:
    COST.check_groups(0)
    COST.check_groups(3)
    message = "num_removed_groups is 4, but a block has 4 KV groups; accepted: at most 3"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        COST.check_groups(4)
    WidthCost(1, 1, 1, 1, 1).check_groups(5)


def test_a_fraction_that_removes_nothing_is_refused() -> None:
    assert COST.channels_for_fraction(0.7, 64) == 64 and COST.channels_for_fraction(0.3, 64) == 64
    message = "0.9 of 128 channels is 128 in multiples of 64: nothing would be removed; accepted: below 128, or a smaller multiple_of"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        COST.channels_for_fraction(0.9, 64)
    assert COST.channels_for_fraction(0.9, 1) == 115
