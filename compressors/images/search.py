"""Search which blocks of an image classifier to keep. Each block is mixed with handing on what it reads, by a gate that validation images move.

DARTS (https://arxiv.org/abs/1806.09055) over two operations a block, with voting teachers (SD-DARTS, https://arxiv.org/abs/2302.05629):
the net at several earlier steps, gates and all, whose mean answer it is held to, so that it is flatter around its gates and loses less
when these become a choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.images.layout import image_blocks

# The name of the score that a search gives blocks: the share of each block against handing on, low where it can go.
SEARCHED = "architecture"
GATES = "gates"


class Supernet(nn.Module):
    """A classifier whose blocks that can go give p f(x) + (1 - p) x, p the first of softmax(gate). At the start 1/2 each."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.model = classifier.model
        blocks = image_blocks(classifier.model)
        self.indices = tuple(index for index, block in enumerate(blocks) if block.can_go)
        if not self.indices:
            raise ValueError("no block hands on an image of its own shape; accepted: a classifier with one that can go")
        self.gates = nn.Parameter(torch.zeros(len(self.indices), 2))
        self._read: list[Tensor] = []
        for gate, index in enumerate(self.indices):
            # copied: some families add in place
            blocks[index].module.register_forward_pre_hook(lambda module, inputs: self._read.append(inputs[0].clone()))
            blocks[index].module.register_forward_hook(_Mix(self, gate))

    def forward(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Return a logit a class of each image."""
        self._read.clear()
        return self.model(pixel_values=pixels.to(self.model.device, self.model.dtype)).logits.float()

    def mixed(self, gate: int, output: Tensor) -> Tensor:
        """Return what a block and handing on give together."""
        share = self.gates[gate].softmax(dim=0)
        return share[0] * output + share[1] * self._read.pop()

    @torch.no_grad()
    def shares(self) -> dict[int, float]:
        """Return p of each block that can go, by its number."""
        values = self.gates.softmax(dim=1)[:, 0].tolist()
        return dict(zip(self.indices, values, strict=True))

    @torch.no_grad()
    def decide(self, removed: Sequence[int]) -> None:
        """Set every gate to 0 or 1: handing on where a block is removed, else the block alone."""
        for gate, index in enumerate(self.indices):
            # of these softmax is 0 and 1 to the last digit
            self.gates[gate].copy_(torch.tensor([-100.0, 100.0] if index in removed else [100.0, -100.0]))


class _Mix:
    def __init__(self, supernet: Supernet, gate: int) -> None:
        self._supernet, self._gate = supernet, gate

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (self._supernet.mixed(self._gate, output[0]), *output[1:])
        return self._supernet.mixed(self._gate, output)


@dataclass(frozen=True, kw_only=True)
class SearchRates:
    """How fast weights and gates move, and how many earlier nets, how many steps apart, teach.

    With `teacher_weight` 0 it is DARTS of the first order.
    """

    weight_rate: float = 1e-3
    gate_rate: float = 1e-2
    num_teachers: int = 3
    every: int = 10
    teacher_weight: float = 1.0


class Search:
    """Alternating steps: gates by the loss of validation images, weights by that of training images and of the voting teachers."""

    def __init__(self, supernet: Supernet, rates: SearchRates) -> None:
        self.supernet, self._rates, self.step = supernet, rates, 0
        weights = [value for name, value in supernet.named_parameters() if name != GATES]
        self._weights = torch.optim.AdamW(weights, rates.weight_rate, weight_decay=0.0)
        # as published: the second moment of gates forgets sooner, and small ones stay small
        self._gates = torch.optim.Adam([supernet.gates], rates.gate_rate, betas=(0.5, 0.999), weight_decay=1e-3)
        self._snapshots: deque[dict[str, Tensor]] = deque(maxlen=rates.num_teachers)

    def advance(
        self, learned: tuple[Tensor, Int[Tensor, "N"]], validated: tuple[Tensor, Int[Tensor, "M"]]
    ) -> dict[str, float]:
        """Take a step of both, and return the losses in nats."""
        chosen = nn.functional.cross_entropy(self.supernet(validated[0]), validated[1])
        self._move(self._gates, chosen)
        logits = self.supernet(learned[0])
        taught = voting_loss(logits, self._votes(learned[0]))
        loss = nn.functional.cross_entropy(logits, learned[1])
        self._move(self._weights, loss + self._rates.teacher_weight * taught)
        self.step += 1
        if self._rates.teacher_weight and self.step % self._rates.every == 0:
            self._snapshots.append(_copied(dict(self.supernet.named_parameters())))
        losses = {"train_labels_nats": loss, "validation_labels_nats": chosen, "voting_nats": taught}
        return {name: float(value.detach()) for name, value in losses.items()}

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on to the same gates."""
        return {
            "step": self.step,
            "parameters": _copied(dict(self.supernet.named_parameters())),
            "optimizers": [self._weights.state_dict(), self._gates.state_dict()],
            "snapshots": list(self._snapshots),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.step = state["step"]
        with torch.no_grad():
            for name, value in self.supernet.named_parameters():
                value.copy_(state["parameters"][name])
        for optimizer, saved in zip((self._weights, self._gates), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._snapshots.clear()
        self._snapshots.extend(state["snapshots"])

    def _move(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        self.supernet.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _votes(self, pixels: Float[Tensor, "N C H W"]) -> list[Float[Tensor, "N K"]]:
        return [functional_call(self.supernet, snapshot, (pixels,)) for snapshot in self._snapshots]


def voting_loss(logits: Float[Tensor, "N K"], votes: Sequence[Float[Tensor, "N K"]]) -> Tensor:
    """Return KL(mean_k softmax(vote_k) || softmax(logits)) in nats, a mean over images; 0 without votes. The votes stand still."""
    if not votes:
        return logits.new_zeros(())
    target = torch.stack([vote.softmax(dim=-1) for vote in votes]).mean(dim=0)
    return nn.functional.kl_div(logits.log_softmax(dim=-1), target.detach(), reduction="batchmean")


def _copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in parameters.items()}
