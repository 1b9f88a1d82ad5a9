"""A sub-network is slices of the whole: as wide the whole itself, extracted the same numbers, and its gradient in its slices alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attar.compressors.elastic.space import Space, Subnet, blocks_of
from attar.compressors.elastic.supernet import SlicedNet, Supernet
from attar.compressors.encode.encoder import Pooling, SentenceEncoder
from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.stages.ingest.images.tiny import random_classifier
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES, random_encoder, random_model

IDS = torch.randint(3, 200, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 4:] = 0
WHOLE = Subnet(4, 32, 4, 64)
# fewer blocks and heads; heads that are narrower, as many; all at once
SOME = (Subnet(3, 24, 3, 64), Subnet(4, 16, 4, 40), Subnet(2, 8, 2, 16), Subnet(1, 32, 4, 64))


def encoder_of(family: str = "bert") -> SentenceEncoder:
    model, _ = random_encoder(family, num_blocks=WHOLE.blocks, hidden_size=WHOLE.width)
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():  # of norms as they begin, one looks like another
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=draw)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=draw)
    return SentenceEncoder(model, Pooling(is_normalized=True)).eval()


def sliced(encoder: SentenceEncoder, subnet: Subnet) -> SlicedNet:
    return SlicedNet(Supernet(encoder.model), subnet, lambda model: SentenceEncoder(model, encoder.pooling))


@pytest.mark.parametrize("family", ENCODER_FAMILIES)
def test_the_whole_is_the_dense_model_and_an_extracted_part_is_its_slices(family: str) -> None:
    encoder = encoder_of(family)
    supernet = Supernet(encoder.model)
    assert supernet.whole == WHOLE
    assert torch.equal(sliced(encoder, WHOLE).embed(IDS, MASK), encoder.embed(IDS, MASK))
    for subnet in SOME:
        alone = SentenceEncoder(supernet.extracted(subnet), encoder.pooling)
        made = sliced(encoder, subnet).embed(IDS, MASK)
        assert made.shape == (3, subnet.width) and (made - alone.embed(IDS, MASK)).abs().max() < 1e-6
        assert sum(p.numel() for p in alone.parameters()) == supernet.num_parameters(subnet)
        own = {id(p.untyped_storage()) for p in encoder.parameters()}
        assert not own & {id(p.untyped_storage()) for p in alone.parameters()}, "copies: the whole may go on learning"


def test_fewer_blocks_and_channels_are_those_taken_out_by_hand() -> None:
    encoder = encoder_of()
    made = sliced(encoder, Subnet(3, 32, 4, 40)).embed(IDS, MASK)
    other = copy.deepcopy(encoder)
    remove_blocks(other.model, [2])  # of 4 blocks stay floor(0, 1.5, 3)
    for block in decoder_blocks(other.model):
        block.output.dense.weight.data[:, 40:] = 0.0  # type: ignore[union-attr,operator] - BERT's
    assert (made - other.embed(IDS, MASK)).abs().max() < 1e-6


def test_heads_are_the_first_and_of_each_the_first_numbers() -> None:
    encoder, subnet = encoder_of(), Subnet(4, 12, 3, 64)
    alone = Supernet(encoder.model).extracted(subnet)
    rows = [head * 8 + number for head in range(3) for number in range(4)]
    for block, own in zip(decoder_blocks(encoder.model), decoder_blocks(alone), strict=True):
        for name in ("query", "key", "value"):
            matrix, part = (getattr(some.attention.self, name) for some in (block, own))  # type: ignore[union-attr]
            assert torch.equal(part.weight, matrix.weight[rows][:, :12]) and torch.equal(part.bias, matrix.bias[rows])
        exit_matrix, part = (some.attention.output.dense for some in (block, own))  # type: ignore[union-attr]
        assert torch.equal(part.weight, exit_matrix.weight[:12][:, rows])
        assert torch.equal(part.bias, exit_matrix.bias[:12])
    assert (alone.config.hidden_size, alone.config.num_attention_heads, alone.config.num_hidden_layers) == (12, 3, 4)


def test_a_part_teaches_its_slices_alone() -> None:
    encoder, subnet = encoder_of(), Subnet(2, 16, 2, 40)
    encoder.requires_grad_(True)
    sliced(encoder, subnet)(IDS, MASK)[:, 0].sum().backward()
    stays = set(blocks_of(4, 2))
    for index, block in enumerate(decoder_blocks(encoder.model)):
        gradient = block.intermediate.dense.weight.grad  # type: ignore[union-attr]
        if index not in stays:
            assert gradient is None
            continue
        inside = gradient[:40, :16]
        assert inside.abs().sum() > 0 and gradient.abs().sum() == inside.abs().sum()
    rows = encoder.model.get_input_embeddings().weight.grad
    assert rows[:, :16].abs().sum() > 0 and rows[:, 16:].abs().sum() == 0


def test_what_the_whole_learns_the_part_has_at_once() -> None:
    encoder = encoder_of()
    part = sliced(encoder, SOME[0])
    before = part.embed(IDS, MASK)
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight[:, 0] += torch.linspace(-3, 3, 259)
    assert not torch.allclose(before, part.embed(IDS, MASK), atol=1e-3)


@pytest.mark.parametrize(("num_whole", "num_blocks"), [(6, 3), (12, 7), (6, 6), (5, 2), (4, 1)])
def test_blocks_are_spread_from_the_first_to_the_last(num_whole: int, num_blocks: int) -> None:
    expected = [int(some) for some in torch.linspace(0, num_whole - 1, num_blocks, dtype=torch.float64)]
    assert blocks_of(num_whole, num_blocks) == expected
    assert num_blocks == 1 or blocks_of(num_whole, num_blocks)[-1] == num_whole - 1


@pytest.mark.parametrize("subnet", [Subnet(3, 16, 2, 32), Subnet(2, 8, 1, 20), Subnet(4, 8, 2, 32)])
def test_a_vit_s_part_is_its_slices(subnet: Subnet) -> None:
    model = random_classifier("vit", num_channels=1)
    supernet, pixels = Supernet(model), torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert supernet.whole == Subnet(4, 16, 2, 32)
    made = SlicedNet(supernet, subnet, ImageClassifier)
    whole = SlicedNet(supernet, supernet.whole, ImageClassifier)
    alone = ImageClassifier(supernet.extracted(subnet))
    with torch.no_grad():
        assert torch.equal(whole(pixels), ImageClassifier(model)(pixels))
        assert (made(pixels) - alone(pixels)).abs().max() < 1e-6
        assert not torch.allclose(made(pixels), whole(pixels), atol=1e-3)


@pytest.mark.parametrize("family", ["resnet", "efficientnet", "convnext"])
def test_a_net_of_stages_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match="no single number of blocks, width, heads and channels; accepted: BERT"):
        Supernet(random_classifier(family))


def test_a_model_without_separate_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match="no separate matrices of queries, keys and values.*accepted: BERT"):
        Supernet(random_model("llama")[0])
    subnets = Space(width=(16,)).subnets(WHOLE)
    assert subnets == (WHOLE, Subnet(4, 16, 4, 64))
