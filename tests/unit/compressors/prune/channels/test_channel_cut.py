"""A narrower image classifier computes what the whole one does with its other channels shut by hand, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.efficientnet.modeling_efficientnet import round_filters

from attar.compressors.measure.cost import num_parameters
from attar.compressors.prune.channels.channel_map import ChannelMap
from attar.compressors.prune.channels.choose import Choice
from attar.compressors.prune.channels.cut import kept_units, narrowed
from attar.compressors.prune.channels.families import MAPS, channel_map
from attar.compressors.prune.channels.gates import closed, gate_slopes, gated
from attar.compressors.prune.channels.mobile import filters
from attar.compressors.prune.channels.scores import IMAGE_WIDTH_SCORES, ImageWidthScan, Taylor
from attar.stages.ingest.images.tiny import random_classifier

SIZES = {"num_blocks": 4, "hidden_size": 16, "image_size": 16, "num_channels": 3, "num_classes": 5}
LABELS = [0, 1, 2, 3, 4, -1]


def net(family: str, **sizes: int) -> tuple[Any, ChannelMap]:
    model = random_classifier(family, **{**SIZES, **sizes})
    return model, channel_map(model)


def pixels() -> Tensor:
    return torch.randn(len(LABELS), 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    return model(pixel_values=pixels().to(dtype)).logits


def scored(model: Any, channels: ChannelMap, score: str = "taylor") -> Any:
    scan = ImageWidthScan(IMAGE_WIDTH_SCORES[score](), channels)
    if score == "taylor":
        scan.update(model, pixels(), LABELS)
    return scan.scores(model)


@pytest.mark.parametrize("family", MAPS)
def test_open_gates_change_nothing_and_every_parameter_is_counted(family: str) -> None:
    model, channels = net(family)
    gates = {name: torch.ones(1, space.num_units) for name, space in channels.spaces.items()}
    with gated(model, channels, gates):
        opened = logits(model)
    assert torch.allclose(opened, logits(model), rtol=1e-4, atol=1e-6)
    assert channels.num_parameters(channels.values) == num_parameters(model)


@pytest.mark.parametrize("family", MAPS)
@pytest.mark.parametrize("spread", ["even", "ranked"])
def test_what_is_left_computes_as_by_hand_and_is_as_large_as_counted(family: str, spread: str) -> None:
    model, channels = net(family)
    budget = num_parameters(model) // 2
    choice, scores = Choice(channels, model.config, 2), scored(model, channels)
    values = choice.even(budget) if spread == "even" else choice.ranked(budget, scores, is_loss=True)
    units = kept_units(channels, values, scores)
    with gated(model, channels, closed(channels, units, model.device)):
        by_hand = logits(model)
    narrower = narrowed(model, channels, values, units)
    assert 0.4 * 2 * budget < num_parameters(narrower) == channels.num_parameters(values) <= budget
    largest = logits(model).abs().max()
    assert (logits(narrower) - by_hand).abs().max() < 1e-5 * largest
    assert (logits(model) - by_hand).abs().max() > 0.01 * largest  # what went did something
    # and again: a narrower net is a net of its family
    assert channel_map(narrower).values == values


@pytest.mark.parametrize("family", ["resnet", "convnextv2", "efficientnet"])
def test_a_slope_is_the_change_of_the_loss_by_its_gate(family: str) -> None:
    model, channels = net(family)
    model, step = model.double(), 1e-5
    classes = torch.tensor([*LABELS[:-1], int(logits(model, torch.float64)[-1].argmax())])  # no label: its own class
    slopes = gate_slopes(model, channels, pixels().double(), LABELS)
    for name in (next(iter(channels.spaces)), [*channels.spaces][-1]):
        losses = []
        for sign in (1, -1):
            gates = {key: torch.ones(1, space.num_units, dtype=torch.float64) for key, space in channels.spaces.items()}
            gates[name][:, 1] += sign * step
            with gated(model, channels, gates):
                given = logits(model, torch.float64)
            losses.append(nn.functional.cross_entropy(given, classes, reduction="none"))
        assert torch.allclose(
            (losses[0] - losses[1]) / (2 * step), slopes[name][:, 1].double(), rtol=1e-3, atol=1e-6
        ), name


def test_channels_that_nothing_reads_go_first() -> None:
    model, channels = net("resnet")
    dead = [3, 7, 12]
    first, second = model.resnet.encoder.stages[0].layers[0].layer
    with torch.no_grad():
        second.convolution.weight[:, dead] = 0.0
        first.normalization.weight[dead] = 0.0
    name = next(name for name in channels.spaces if name.endswith("block 0 inside 0"))
    values = {**channels.values, "stem": 13}
    for score in ("taylor", "batch_norm"):
        stays = kept_units(channels, values, scored(model, channels, score))[name]
        assert stays.tolist() == [index for index in range(16) if index not in dead], score
    assert Taylor().of_weights(model, channels) == {}


def test_a_family_without_batch_norms_has_no_scales_to_rank_by() -> None:
    model, channels = net("vit")
    with pytest.raises(ValueError, match="score is 'batch_norm', but ViTForImageClassification has no batch norms"):
        scored(model, channels, "batch_norm")


def test_a_score_that_is_no_number_is_refused() -> None:
    model, channels = net("resnet")
    with torch.no_grad():
        model.resnet.embedder.embedder.normalization.weight[0] = float("inf")
    with pytest.raises(ValueError, match="stem: a score of its channels is not a finite number"):
        scored(model, channels, "batch_norm")


def test_of_grouped_convolutions_whole_groups_go() -> None:
    model, channels = net("regnet")  # stage 1: 32 channels in two groups of 16
    name = next(name for name in channels.spaces if name.startswith("stage 1 block 0 inside"))
    assert (channels.spaces[name].num_units, channels.spaces[name].width) == (2, 16)
    choice = Choice(channels, model.config, 2)
    assert choice.even(num_parameters(model) // 2)["stage 1"] == 16
    with pytest.raises(
        ValueError, match="multiple_of is 12, but the channels of stage 1 go in groups of 16; accepted: a"
    ):
        Choice(channels, model.config, 12)


def test_the_config_of_an_efficientnet_rounds_as_transformers_does() -> None:
    model, _ = net("efficientnet")
    for coefficient in (0.25, 0.53, 0.75, 1.0, 1.1, 1.6):
        for divisor in (1, 2, 8):
            model.config.width_coefficient, model.config.depth_divisor = coefficient, divisor
            for number in (1, 3, 16, 32, 50, 1280):
                assert filters(number, coefficient, divisor) == round_filters(model.config, number)


def test_a_coefficient_above_one_and_a_gate_come_along() -> None:
    model, _ = net("efficientnet")
    config = type(model.config).from_dict(
        {**model.config.to_dict(), "width_coefficient": 1.1, "depth_divisor": 8, "hidden_dim": 1408}
    )
    wide = type(model)(config).eval()
    channels = channel_map(wide)
    assert channels.values["stem"] == 32 and channels.spaces["top"].num_units == 1408
    values = Choice(channels, config, 8).even(num_parameters(wide) // 2)
    scores = scored(wide, channels, "magnitude")
    units = kept_units(channels, values, scores)
    with gated(wide, channels, closed(channels, units, wide.device)):
        by_hand = logits(wide)
    narrower = narrowed(wide, channels, values, units)
    assert (logits(narrower) - by_hand).abs().max() < 1e-5 * logits(wide).abs().max().clamp(min=1e-6)


def test_the_ranking_takes_from_where_least_is_lost() -> None:
    model, channels = net("resnet")
    scores = {
        name: torch.ones(space.num_units) * (1e-6 if name.startswith("stage 1") else 1.0)
        for name, space in channels.spaces.items()
    }
    values = Choice(channels, model.config, 1).ranked(num_parameters(model) * 2 // 3, scores, is_loss=True)
    assert values["stem"] == 16 and values["stage 1"] < 32


@pytest.mark.parametrize(
    ("budget", "multiple_of", "message"),
    [
        (100, 8, "100 parameters cannot be reached by an even cut in multiples of 8; the nearest leaves"),
        (10**9, 8, "1,000,000,000 parameters are no fewer than the model has; accepted: below"),
        (5000, 64, "no width has 64 channels to lose; accepted: a smaller size.multiple_of"),
    ],
)
def test_a_share_that_no_even_cut_meets_is_refused_with_the_nearest(
    budget: int, multiple_of: int, message: str
) -> None:
    model, channels = net("resnet")
    choice = Choice(channels, model.config, multiple_of)
    with pytest.raises(ValueError, match=message):
        choice.even(budget)


def test_a_family_whose_config_cannot_say_it_is_refused() -> None:
    model, channels = net("resnet")
    scores = scored(model, channels, "random")
    values = {**channels.values, "stage 1": 31}
    units = kept_units(channels, values, scores)
    short = {**units, "stage 1 block 0 inside 0": units["stage 1 block 0 inside 0"][:-1]}
    with pytest.raises(ValueError, match="ResNetForImageClassification: its config cannot say what is left: "):
        narrowed(model, channels, values, short)
    model.config.model_type = "mobilenet_v2"
    with pytest.raises(ValueError, match="its config cannot say narrower blocks; accepted: resnet, regnet, convnext"):
        channel_map(model)
