"""Weights that training moves: copies of the trained ones alone, on the device that is asked for."""

from __future__ import annotations

import torch
from torch import nn

from attar.compressors.models.trained_weights import beside, set_weights, trained_weights


def two_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    return model


def test_only_trained_weights_are_copied_and_put_back() -> None:
    model = two_layers()
    copies = trained_weights(model, "cpu")
    assert copies.keys() == {"1.weight", "1.bias"}
    before = copies["1.weight"].clone()
    with torch.no_grad():
        model[1].weight.zero_()
    assert torch.equal(copies["1.weight"], before), "a copy, not the weights themselves"
    set_weights(model, copies)
    assert torch.equal(model[1].weight, before)


def test_weights_of_a_checkpoint_follow_the_model_to_its_device() -> None:
    """A running mean or a past student is computed beside the student: the device `meta` stands for another machine's."""
    model = two_layers()
    weights = trained_weights(model)
    moved = beside(model.to("meta"), weights)
    assert moved.keys() == weights.keys()
    assert {value.device.type for value in moved.values()} == {"meta"}
    assert {value.device.type for value in weights.values()} == {"cpu"}
