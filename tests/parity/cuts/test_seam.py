"""Blocks made of two: what stays computes what the whole model does with the other parts silent, in every family of two halves."""

from __future__ import annotations

import copy

import pytest
import torch

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.depth.block_refit import Matches, refit_blocks
from attar.compressors.prune.depth.seam import Pairing, pair_parts, removed_parts, silent_parts
from attar.stages.ingest.tiny_model import random_model

HALVED = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "phi3")
IDS = torch.arange(3, 43)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize(("blocks", "seams"), [([], [2]), ([4], [1]), ([0], [2, 4])])
@pytest.mark.parametrize("family", HALVED)
def test_a_cut_of_parts_computes_what_stays(family: str, blocks: list[int], seams: list[int]) -> None:
    model, _ = random_model(family, num_blocks=6)
    attention, feed_forward = removed_parts(6, blocks, seams)
    with silent_parts(model, attention, feed_forward):
        expected = logits(model)
    pairing = Pairing.without(6, attention, feed_forward)
    assert [first + 1 for first in pairing.attention if (first, first + 1) in pairing.seams] == [
        seam + 1 for seam in seams
    ]
    pair_parts(model, pairing)
    assert len(decoder_blocks(model)) == model.config.num_hidden_layers == 6 - len(blocks) - len(seams)
    assert torch.allclose(logits(model), expected, atol=1e-5)


def test_a_refitted_seam_is_the_original_on_few_tokens() -> None:
    model, _ = random_model("llama", num_blocks=6)
    cut = copy.deepcopy(model)
    pairing = Pairing.without(6, *removed_parts(6, [], [2]))
    pair_parts(cut, pairing)
    student = copy.deepcopy(cut)
    matches = Matches.of_pairs(6, pairing.attention, pairing.feed_forward)
    assert (matches.was, matches.middle, matches.upto) == ((0, 1, 2, 4, 5), (0, 1, 3, 4, 5), (0, 1, 3, 4, 5))
    assert matches.first == 2
    fits = list(refit_blocks(model, student, [(IDS, torch.ones_like(IDS))], matches, ridge=1e-9, first=matches.first))
    assert [fit.block_index for fit in fits] == [2, 3, 4]
    error, without = (logits(student) - logits(model)).norm(), (logits(cut) - logits(model)).norm()
    assert error < 0.02 * without, f"{error:.3g} left of {without:.3g}"


@pytest.mark.parametrize(
    ("attention", "feed_forward", "message"),
    [
        ([2], [], "block 2: its feed-forward part would follow another feed-forward part"),
        ([], [2], "block 3: its attention part would follow another attention part"),
        ([2], [3], "block 2: its feed-forward part would follow another feed-forward part"),
    ],
)
def test_parts_that_make_no_whole_blocks_are_refused(
    attention: list[int], feed_forward: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Pairing.without(6, attention, feed_forward)


def test_a_part_goes_once() -> None:
    with pytest.raises(ValueError, match="attention part of block 3 cannot go: it goes already"):
        removed_parts(6, [3], [2])
    with pytest.raises(ValueError, match="attention part of block 6 cannot go"):
        removed_parts(6, [], [5])


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "gpt_neox", "opt", "olmo2"])
def test_families_of_other_blocks_are_refused(family: str) -> None:
    model, _ = random_model(family, num_blocks=4)
    with pytest.raises(ValueError, match="its parts cannot be cut apart"):
        pair_parts(model, Pairing.without(4, *removed_parts(4, [], [1])))
