"""A pool whose window is no smaller than the image is traced as a mean over the image, which integers keep."""

from __future__ import annotations

import torch
from torch import nn

from attar.compressors.images.graph import whole_means


def test_a_window_larger_than_the_image_becomes_a_mean_over_it() -> None:
    pixels = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.AvgPool2d(64, ceil_mode=True))
    before = net(pixels)
    assert whole_means(net, pixels[:1]) == 1 and isinstance(net[0], nn.AdaptiveAvgPool2d)
    torch.testing.assert_close(net(pixels), before)


def test_a_window_within_the_image_stays() -> None:
    net = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True))
    assert whole_means(net, torch.zeros(1, 3, 5, 5)) == 0 and isinstance(net[0], nn.AvgPool2d)
