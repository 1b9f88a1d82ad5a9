"""A small classifier by whose features made images are compared. It learns the training images and sees no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Width of the features that images are compared by.
NUM_FEATURES = 64
BATCH_SIZE = 128
PEAK_RATE = 3e-3


class FeatureClassifier(nn.Module):
    """Three convolutions, a mean over the image, a matrix. Features: the mean."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.Conv2d(32, NUM_FEATURES, 3, stride=2, padding=1),
            nn.GroupNorm(8, NUM_FEATURES),
            nn.ReLU(),
            nn.Conv2d(NUM_FEATURES, NUM_FEATURES, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B K"]]:
        """Return (features, logits)."""
        features = self.body(images).mean(dim=(2, 3))
        return features, self.head(features)


@dataclass(frozen=True)
class Classified:
    """Features of images, and the class that each is taken for."""

    features: Float[Tensor, "N F"]
    classes: Int[Tensor, "N"]

    @staticmethod
    @torch.no_grad()
    def of(classifier: FeatureClassifier, images: Float[Tensor, "N C H W"]) -> Classified:
        """Return features and classes of images, read some at a time."""
        parts = [classifier(some) for some in images.split(4 * BATCH_SIZE)]
        return Classified(torch.cat([part[0] for part in parts]), torch.cat([part[1].argmax(dim=1) for part in parts]))


def trained_classifier(
    images: Float[Tensor, "N C H W"],
    labels: Int[Tensor, "N"],
    num_classes: int,
    num_steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> FeatureClassifier:
    """Return a classifier of the training images. The same one for the same images, so that models are compared by one measure."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = FeatureClassifier(images.shape[1], num_classes)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=PEAK_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=num_steps + 1)
        for _ in range(num_steps):
            chosen = torch.randint(len(images), (BATCH_SIZE,))
            loss = nn.functional.cross_entropy(classifier(images[chosen])[1], labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step()
    return classifier.eval().requires_grad_(False)
