"""What products read while a text runs through a model: moments of their inputs, those with the same input together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attar.compressors.quantize.methods import Needs

# Of the mean power of a matrix' inputs: added where its weights are fitted to what rounding did to them.
DRIFT_DAMPING = 0.01


@dataclass
class SharedInput:
    """Products that read the same values, and the sum of these values' moments (or powers) over tokens.

    `cross`: the sum of the products of what the original reads there with what is read now.
    """

    names: list[str]
    total: Tensor | None = None
    num_tokens: int = 0
    cross: Tensor | None = None

    def add(self, rows: Float[Tensor, "N K"], needs: Needs, original: Float[Tensor, "N K"] | None = None) -> None:
        """Add some tokens."""
        rows = rows.float()
        part = (rows.square().sum(0) if needs == "powers" else rows.T @ rows).cpu()
        self.total = part if self.total is None else self.total.add_(part)
        self.num_tokens += len(rows)
        if original is not None:
            cross = (original.float().T @ rows).cpu()
            self.cross = cross if self.cross is None else self.cross.add_(cross)

    def mean(self) -> Tensor | None:
        """Return E[x x^T] or E[x^2]. Raises ValueError where a value is not finite."""
        if self.total is None:
            return None
        if not bool(torch.isfinite(self.total).all()):
            raise ValueError(f"{self.names[0]} reads values that are not finite on the calibration text")
        return self.total / self.num_tokens

    def led_back(self, weight: Float[Tensor, "N K"], share: float) -> Float[Tensor, "N K"]:
        """Return the matrix whose product with what is read now is nearest to W's with what the original reads.

        W + share * W (C - H) (H + damping)^-1, H = E[x x^T] of what is read now, C = E[x' x^T] with the original's x'.
        """
        moments = self.mean()
        if self.cross is None or moments is None:
            return weight
        hessian, cross = moments.double(), (self.cross / self.num_tokens).double()
        damped = hessian + DRIFT_DAMPING * hessian.diagonal().mean().clamp(min=1e-30) * torch.eye(len(hessian)).double()
        change = torch.linalg.solve(damped, (cross - hessian).T).T
        return weight + share * weight @ change.float()


@dataclass
class Watched:
    """Products that are watched while texts run, and what they read, those with the same input together."""

    linears: Mapping[str, nn.Module]
    needs: Needs
    groups: dict[str, SharedInput] = field(default_factory=dict)
    # by each product's name, that of the first one that reads the same values
    leaders: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def listening(self, keep: Bool[Tensor, "T"], originals: Mapping[str, Tensor]) -> Iterator[None]:
        """Add what is read inside the block at the tokens to keep. `originals`: what the original reads there, by product."""
        seen: dict[int, tuple[Tensor, str]] = {}  # tensors too: an id is free again once its tensor is gone

        def hear(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
            leader = seen.setdefault(id(args[0]), (args[0], name))[1]
            group = self.groups.setdefault(leader, SharedInput([leader]))
            if self.leaders.setdefault(name, leader) != leader:
                raise ValueError(f"{name} reads other values in one text than in another")
            if name != leader:
                group.names += [name] if name not in group.names else []
                return
            rows, counted = _rows(args[0]), keep.to(args[0].device)
            # an expert of its own sees the tokens that were sent to it, padding is none of them to speak of
            if len(rows) != len(counted):
                group.add(rows, self.needs)
                return
            original = _rows(originals[name])[counted] if name in originals else None
            group.add(rows[counted], self.needs, original)

        hooks = [module.register_forward_pre_hook(partial(hear, name)) for name, module in self.linears.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def recording(linears: Mapping[str, nn.Module], inputs: dict[str, Tensor]) -> Iterator[None]:
    """Keep what each product reads inside the block, by its name."""

    def record(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name] = args[0]

    hooks = [module.register_forward_pre_hook(partial(record, name)) for name, module in linears.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rows(values: Tensor) -> Float[Tensor, "N K"]:
    return values.reshape(-1, values.shape[-1])
