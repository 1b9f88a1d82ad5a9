"""Laws of the search for blocks: what gates mean, who votes, what it is without votes, and that it goes on where it stopped."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.images.layout import image_blocks, without_blocks
from attar.compressors.images.search import GATES, Search, SearchRates, Supernet, voting_loss
from attar.stages.ingest.images.tiny import random_classifier

FAMILIES = ("resnet", "convnext", "vit")
PLAIN = SearchRates(teacher_weight=0.0)


def classifier(family: str = "resnet") -> ImageClassifier:
    return ImageClassifier(random_classifier(family, num_blocks=4, hidden_size=8, num_channels=1, num_classes=3)).eval()


def batch(seed: int, count: int = 12) -> tuple[Tensor, Tensor]:
    """Return images of three shades, and which."""
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return noise * 0.3 + labels[:, None, None, None].float() - 1.0, labels


@pytest.mark.parametrize("family", FAMILIES)
def test_decided_gates_are_the_net_without_its_blocks(family: str) -> None:
    net = classifier(family)
    pixels, _ = batch(0)
    can_go = [index for index, block in enumerate(image_blocks(net.model)) if block.can_go]
    with torch.no_grad():
        whole = net(pixels)
        with without_blocks(net.model, can_go[-1:]):
            cut = net(pixels)
        supernet = Supernet(net).eval()
        assert set(supernet.shares()) == {*can_go} and set(supernet.shares().values()) == {0.5}
        supernet.decide([])
        torch.testing.assert_close(supernet(pixels), whole)
        supernet.decide(can_go[-1:])
        torch.testing.assert_close(supernet(pixels), cut)


def test_votes_are_a_mean_of_distributions_and_stand_still() -> None:
    logits = torch.tensor([[0.0, 0.0]], requires_grad=True)
    votes = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()]
    for vote in votes:
        vote.requires_grad_(True)
    loss = voting_loss(logits, votes)
    mean = torch.tensor([0.7, 0.3])
    assert float(loss.detach()) == pytest.approx(float((mean * (mean / 0.5).log()).sum()), abs=1e-6)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5 - 0.7, 0.5 - 0.3]]))
    assert all(vote.grad is None for vote in votes)
    assert float(voting_loss(votes[1], votes[1:]).detach()) == pytest.approx(0.0, abs=1e-7), (
        "nothing to learn from oneself"
    )
    assert float(voting_loss(logits, []).detach()) == 0.0


def test_without_votes_it_is_darts() -> None:
    """By hand: Adam on the gates by the loss of the second images, then AdamW on the weights by that of the first."""
    supernet = Supernet(classifier())
    by_hand = Supernet(classifier())
    search = Search(supernet, PLAIN)
    weights = [value for name, value in by_hand.named_parameters() if name != GATES]
    gate_steps = torch.optim.Adam([by_hand.gates], PLAIN.gate_rate, betas=(0.5, 0.999), weight_decay=1e-3)
    weight_steps = torch.optim.AdamW(weights, PLAIN.weight_rate, weight_decay=0.0)
    for step in range(3):
        learned, validated = batch(2 * step), batch(2 * step + 1)
        search.advance(learned, validated)
        for optimizer, (pixels, labels) in ((gate_steps, validated), (weight_steps, learned)):
            by_hand.zero_grad(set_to_none=True)
            cross_entropy(by_hand(pixels), labels).backward()
            optimizer.step()
    for (name, value), other in zip(supernet.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_earlier_nets_vote_each_for_itself() -> None:
    supernet = Supernet(classifier())
    search = Search(supernet, SearchRates(num_teachers=2, every=1))
    losses = [search.advance(batch(step), batch(step + 10))["voting_nats"] for step in range(4)]
    assert losses[0] == 0.0 and all(loss > 0.0 for loss in losses[1:]), "nobody votes at first"
    snapshots: list[Any] = search.state()["snapshots"]
    assert len(snapshots) == 2 and torch.equal(snapshots[-1][GATES], supernet.gates)
    assert not torch.equal(snapshots[0][GATES], snapshots[1][GATES])


def test_a_block_that_does_harm_is_gated_out() -> None:
    """A block that adds noise to what it reads, and good ones: its gate falls below theirs, as validation images say."""
    net = classifier("convnext")
    can_go = [index for index, block in enumerate(image_blocks(net.model)) if block.can_go]
    generator = torch.Generator().manual_seed(0)
    harmful = image_blocks(net.model)[can_go[0]].module
    harmful.register_forward_hook(
        lambda module, inputs, output: output + 5.0 * torch.randn(output.shape, generator=generator)
    )
    supernet = Supernet(net)
    search = Search(supernet, SearchRates(weight_rate=1e-3, gate_rate=5e-2, every=5))
    for step in range(25):
        search.advance(batch(step), batch(step + 1000))
    shares = supernet.shares()
    assert min(shares, key=lambda index: shares[index]) == can_go[0] and shares[can_go[0]] < 0.45, shares


def test_a_restored_search_goes_on_to_the_same_gates() -> None:
    rates = SearchRates(every=2, num_teachers=2)
    whole = Search(Supernet(classifier()), rates)
    for step in range(3):
        whole.advance(batch(step), batch(step + 10))
    saved = copy.deepcopy(whole.state())
    other = Search(Supernet(classifier()), rates)
    other.restore(saved)
    for search in (whole, other):
        for step in range(3, 6):
            search.advance(batch(step), batch(step + 10))
    assert other.step == 6 and torch.equal(whole.supernet.gates, other.supernet.gates)
