"""A discriminator on frozen features: what it reads stays, its heads start at nothing and tell apart what they are shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from attar.compressors.diffusion.discriminator import FeatureDiscriminator


class Net(nn.Module):
    """A net of diffusers' form: blocks in lists, one between them, a class."""

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1)])
        self.mid_block = nn.Conv2d(4, 6, 3, padding=1)
        self.up_blocks = nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1)])
        self.class_embedding = nn.Embedding(2, 4)
        self.config: Any = SimpleNamespace(in_channels=1)

    def forward(self, states: Tensor, times: Tensor, class_labels: Tensor, return_dict: bool) -> tuple[Tensor]:
        states = self.down_blocks[0](states).tanh() + self.class_embedding(class_labels)[:, :, None, None]
        return (self.up_blocks[0](self.mid_block(states).tanh()).mean(dim=1, keepdim=True),)


def test_heads_learn_and_what_they_read_stays() -> None:
    torch.manual_seed(0)
    net, zero = Net(), torch.zeros(32, dtype=torch.long)
    tell = FeatureDiscriminator(net, (1, 4, 4))
    before = {name: value.clone() for name, value in tell.body.state_dict().items()}
    learned = [name for name, parameter in tell.named_parameters() if parameter.requires_grad]
    assert len(tell.heads) == 3 and all(name.startswith("heads.") for name in learned)
    made, real = torch.randn(32, 1, 4, 4), torch.randn(32, 1, 4, 4).cumsum(dim=3)
    assert not tell(made, zero, zero).any(), "a head says nothing at first: the density ratio is 1"
    optimizer = torch.optim.Adam([value for value in tell.parameters() if value.requires_grad], lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (softplus(tell(made, zero, zero)) + softplus(-tell(real, zero, zero))).mean().backward()
        optimizer.step()
    assert float(tell(real, zero, zero).mean()) > float(tell(made, zero, zero).mean()) + 0.5
    assert all(torch.equal(before[name], value) for name, value in tell.body.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters()), "the denoiser itself learns on"


def test_it_is_told_the_class_and_lets_the_images_gradient_through() -> None:
    torch.manual_seed(0)
    tell, images = FeatureDiscriminator(Net(), (1, 4, 4)), torch.randn(2, 1, 4, 4, requires_grad=True)
    for head in tell.heads:
        nn.init.normal_(head[3].weight)  # type: ignore[index]
    zero = torch.zeros(2, dtype=torch.long)
    logits = tell(images, zero, zero)
    assert not torch.allclose(logits, tell(images, zero, zero + 1))
    (slope,) = torch.autograd.grad(logits.sum(), images)
    assert bool(slope.abs().sum(dim=(1, 2, 3)).all())
