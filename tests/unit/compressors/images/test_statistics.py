"""Statistics folded into scale and shift are the same net as statistics put into the norms; open gates multiply by 1."""

from __future__ import annotations

import copy

import pytest
import torch

from attar.compressors.images.classifier import ImageClassifier, last_layer, with_classes
from attar.compressors.images.graph import fuse_norms
from attar.compressors.images.layout import image_blocks, remove_image_blocks, without_blocks
from attar.compressors.images.statistics import LEAST_VARIANCE, batch_norms, is_open, measure_anew, without_open_gates
from attar.stages.ingest.images.state_dict import open_gates
from attar.stages.ingest.images.tiny import random_classifier


def classifier_of(family: str, **sizes: int) -> ImageClassifier:
    return ImageClassifier(random_classifier(family, hidden_size=8, **sizes)).eval()


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return 2.0 * torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) + 0.5


@torch.no_grad()
def test_measured_norms_compute_as_if_their_statistics_were_replaced() -> None:
    folded = classifier_of("resnet")
    replaced = copy.deepcopy(folded)
    norms = batch_norms(replaced)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in pixels(24).split(8):
        replaced(batch)
    for norm in norms:
        norm.running_var.clamp_(min=LEAST_VARIANCE)
        norm.eval()
    before = {name: value.clone() for name, value in folded.named_buffers() if "running" in name}
    assert measure_anew(folded, pixels(24).split(8)) == len(norms) == 10
    assert all(torch.equal(value, before[name]) for name, value in folded.named_buffers() if "running" in name)
    assert torch.allclose(folded(pixels(4, 1)), replaced(pixels(4, 1)), rtol=1e-3, atol=1e-4)


def test_nothing_measured_changes_nothing() -> None:
    classifier = classifier_of("resnet")
    before = copy.deepcopy(classifier.state_dict())
    measure_anew(classifier, [])
    after = classifier.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)


@torch.no_grad()
def test_open_gates_are_passed_by_and_others_stay() -> None:
    classifier = classifier_of("efficientnet")
    assert without_open_gates(classifier) == 0
    open_gates(classifier.model)
    gates = [block.module.squeeze_excite for block in image_blocks(classifier.model)]
    assert all(map(is_open, gates))
    whole = classifier(pixels(2))
    assert without_open_gates(classifier) == len(gates)
    assert torch.equal(classifier(pixels(2)), whole)


@torch.no_grad()
@pytest.mark.parametrize("family", ["resnet", "efficientnet"])
def test_norms_become_part_of_the_convolutions_before_them(family: str) -> None:
    classifier = classifier_of(family)
    measure_anew(classifier, [pixels(16)])
    expected = classifier(pixels(3, 1))
    count = len(batch_norms(classifier))
    assert fuse_norms(classifier, pixels(1)) == count and not batch_norms(classifier)
    assert torch.allclose(classifier(pixels(3, 1)), expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["resnet", "regnet", "convnext", "convnextv2", "vit", "efficientnet"])
def test_a_cut_net_is_the_whole_one_whose_blocks_hand_on(family: str) -> None:
    classifier = classifier_of(family)
    blocks = image_blocks(classifier.model)
    last = max(index for index, block in enumerate(blocks) if block.can_go)
    whole = classifier(pixels(2))
    with without_blocks(classifier.model, [last]):
        expected = classifier(pixels(2))
    assert torch.equal(classifier(pixels(2)), whole) and not torch.allclose(expected, whole)
    remove_image_blocks(classifier.model, [last])
    assert torch.equal(classifier(pixels(2)), expected)


def test_a_stage_keeps_a_block() -> None:
    classifier = classifier_of("convnext", num_blocks=4)
    with pytest.raises(ValueError, match=r"removing blocks \[2, 3\] leaves none of stage 1; accepted: one at least"):
        remove_image_blocks(classifier.model, [2, 3])
    with pytest.raises(ValueError, match="block 9 does not exist: the model has 4 blocks, 0 to 3"):
        remove_image_blocks(classifier.model, [9])


def test_a_new_head_has_a_row_a_class() -> None:
    classifier = classifier_of("vit", num_classes=7)
    with_classes(classifier.model, ("cat", "dog"))
    assert last_layer(classifier.model).out_features == 2 and classifier(pixels(2)).shape == (2, 2)
    assert classifier.model.config.label2id == {"cat": 0, "dog": 1}
