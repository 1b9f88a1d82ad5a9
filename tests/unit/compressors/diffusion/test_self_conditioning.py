"""Laws of self-conditioning: nothing at the start, only what stands behind hears of it, and each net has its own path."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from attar.compressors.diffusion.net import predictor
from attar.compressors.diffusion.self_conditioning import PATH, Bottleneck, add_self_conditioning, pooled_features


class Block(nn.Module):
    """What a block of any net is here: a map of its tokens, moved by a condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map, self.condition_map = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        return tokens + self.map(tokens + self.condition_map(condition)[:, None]).tanh()


class Net(nn.Module):
    """A net of diffusers' form with three blocks of tokens that are told time and class."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(4) for _ in range(3))
        self.class_embedding = nn.Embedding(3, 4)
        self.states: list[Tensor] = []
        for block in self.blocks:
            block.register_forward_hook(lambda module, args, output: self.states.append(output.detach()))

    def forward(self, states: Tensor, times: Tensor, class_labels: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.states.clear()
        condition = self.class_embedding(class_labels) + times[:, None] / 1000
        for block in self.blocks:
            states = block(states, condition)
        return (states,)


def made(num_readers: int = 1) -> tuple[Net, Bottleneck]:
    torch.manual_seed(0)
    net = Net()
    return net, Bottleneck(net.blocks[1], tuple(net.blocks)[3 - num_readers :], 1, 4, 4)


STATES, TIMES = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([900, 10])
CLASSES = torch.tensor([0, 2])


def predicted(net: nn.Module) -> Tensor:
    return predictor(net)(STATES, TIMES, CLASSES)


def test_a_fresh_path_changes_nothing_and_learns() -> None:
    net, bottleneck = made()
    before = predicted(net)
    add_self_conditioning(net, bottleneck)
    after = predicted(net)
    assert torch.equal(before, after)
    after.square().mean().backward()
    gradients = {name: value.grad for name, value in net.named_parameters() if name.startswith(PATH)}
    assert len(gradients) == 2 and all(bool(gradient.any()) for gradient in gradients.values())  # type: ignore[union-attr]


def test_blocks_behind_hear_of_the_image_and_none_before() -> None:
    net, bottleneck = made()
    predicted(net)
    plain = list(net.states)
    add_self_conditioning(net, bottleneck)
    path = net.get_submodule(PATH)
    nn.init.eye_(path.projection.weight)  # type: ignore[arg-type]
    predicted(net)
    assert [torch.equal(a, b) for a, b in zip(plain, net.states, strict=True)] == [True, True, False]
    # by hand: the condition of the last block and the mean over positions of the one before it
    condition = net.class_embedding(CLASSES) + TIMES[:, None] / 1000 + plain[1].mean(dim=1)
    torch.testing.assert_close(net.blocks[2].forward(plain[1], condition), net.states[2])


def test_a_copy_of_the_net_has_its_own_path() -> None:
    net, bottleneck = made()
    add_self_conditioning(net, bottleneck)
    nn.init.normal_(net.get_submodule(PATH).projection.weight)  # type: ignore[arg-type]
    before = predicted(net)
    other = copy.deepcopy(net)  # the pass before left nothing that could not be copied
    nn.init.zeros_(other.get_submodule(PATH).projection.weight)  # type: ignore[arg-type]
    assert torch.equal(predicted(net), before) and not torch.equal(predicted(other), before)


def test_weights_of_another_time_serve_a_pass() -> None:
    """A running mean of the weights is asked in their stead, those of the path with the others."""
    net, bottleneck = made()
    add_self_conditioning(net, bottleneck)
    past = {f"{PATH}.projection.weight": torch.eye(4)}
    assert not torch.equal(predictor(net, past)(STATES, TIMES, CLASSES), predicted(net))
    nn.init.eye_(net.get_submodule(PATH).projection.weight)  # type: ignore[arg-type]
    assert torch.equal(predictor(net, past)(STATES, TIMES, CLASSES), predicted(net))


def test_features_are_those_of_the_middle_and_leave_no_hook() -> None:
    net, bottleneck = made()
    features = pooled_features(net, bottleneck, STATES, TIMES, CLASSES)
    torch.testing.assert_close(features, net.states[1].mean(dim=1))
    assert len(bottleneck.block._forward_hooks) == 1, "the net's own"


def test_a_net_without_a_block_behind_is_refused() -> None:
    net, bottleneck = made(num_readers=0)
    with pytest.raises(ValueError, match="no block stands behind the one that is read; accepted: two blocks or more"):
        add_self_conditioning(net, bottleneck)
