"""Put in order, the whole computes what it did, and the first of each axis are its most important."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.elastic.order import put_first
from attar.compressors.elastic.supernet import Supernet
from attar.compressors.encode.encoder import SentenceEncoder
from attar.compressors.models.blocks import decoder_blocks
from attar.stages.ingest.images.tiny import random_classifier
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES
from tests.unit.compressors.elastic.test_supernet import IDS, MASK, encoder_of

# float32 sums in another order
SAME = {"atol": 1e-5, "rtol": 0.0}


def ordered(encoder: SentenceEncoder, *axes: str) -> tuple[torch.Tensor, torch.Tensor]:
    before = encoder.embed(IDS, MASK)
    put_first(Supernet(encoder.model), axes)
    return before, encoder.embed(IDS, MASK)


@pytest.mark.parametrize("family", ENCODER_FAMILIES)
def test_heads_and_channels_change_nothing_and_width_the_order_alone(family: str) -> None:
    encoder = encoder_of(family)
    weights = [block.state_dict() for block in decoder_blocks(encoder.model)]
    weights = [{name: value.clone() for name, value in some.items()} for some in weights]
    assert torch.allclose(*ordered(encoder, "heads", "channels"), **SAME)
    now = [block.state_dict() for block in decoder_blocks(encoder.model)]
    assert any(
        not torch.equal(value, some[name])
        for some, own in zip(now, weights, strict=True)
        for name, value in own.items()
    )
    before, after = ordered(encoder, "width")
    assert not torch.allclose(before, after, **SAME)
    assert torch.allclose(before.sort(dim=-1).values, after.sort(dim=-1).values, **SAME)
    assert torch.allclose(before @ before.T, after @ after.T, **SAME), "texts are as alike as they were"


def test_the_most_important_come_first() -> None:
    encoder = encoder_of()
    block = decoder_blocks(encoder.model)[1]
    with torch.no_grad():
        block.intermediate.dense.weight[33] *= 50.0  # type: ignore[union-attr,index] - BERT's
        encoder.model.get_input_embeddings().weight[:, 7] *= 50.0
        row = block.intermediate.dense.weight[33].clone()  # type: ignore[union-attr,index]
        column = encoder.model.get_input_embeddings().weight[:, 7].clone()
    put_first(Supernet(encoder.model), ("channels",))
    assert torch.equal(block.intermediate.dense.weight[0], row)  # type: ignore[union-attr,index]
    put_first(Supernet(encoder.model), ("width",))
    assert torch.equal(encoder.model.get_input_embeddings().weight[:, 0], column)
    first = [value.clone() for value in encoder.model.state_dict().values()]
    put_first(Supernet(encoder.model), ("width", "channels"))
    assert all(map(torch.equal, first, encoder.model.state_dict().values())), "it is in order already"


def test_a_vit_s_logits_stay() -> None:
    model, pixels = random_classifier("vit"), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(pixel_values=pixels).logits
        put_first(Supernet(model), ("width", "heads", "channels"))
        assert torch.allclose(before, model(pixel_values=pixels).logits, **SAME)
