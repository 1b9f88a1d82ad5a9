"""Scores of feed-forward channels and KV groups, low means removable, and one streaming pass that gathers them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.models.exits import by_input
from attar.compressors.models.paging import bring
from attar.compressors.prune.depth.scan import last_logits_only
from attar.compressors.prune.width.parts import Part, num_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Source = Literal["weights", "activations", "gradients"]


@dataclass(frozen=True)
class Evidence:
    """What a score may look at: the part, its index, and one batch of what its source gives."""

    part: Part
    part_index: int
    # source "activations": what each unit hands to the exit matrix, and which tokens are real
    values: Float[Tensor, "B T U E"] | None = None
    mask: Float[Tensor, "B T"] | None = None
    # source "gradients": sum over a sample's tokens of activation * gradient of its mean loss, nats
    effects: Float[Tensor, "B U"] | None = None


class WidthScore(Protocol):
    """Score of each unit in each sample, at least 0, low means removable. The scan takes the L2 mean over samples."""

    source: ClassVar[Source]

    def __call__(self, seen: Evidence) -> Float[Tensor, "B U"]: ...


@dataclass(frozen=True)
class Activation:
    """Mean over tokens of the unit's L2 norm, L2 over samples: Minitron's. https://arxiv.org/abs/2407.14679"""

    source: ClassVar[Source] = "activations"

    def __call__(self, seen: Evidence) -> Float[Tensor, "B U"]:
        assert seen.values is not None and seen.mask is not None
        return _mean_over_tokens(seen.values.float().norm(dim=-1), seen.mask)


@dataclass(frozen=True)
class Contribution:
    """Mean over tokens of the L2 norm of what the unit adds to the residual stream: activation times outgoing weights.

    ||a_u W_u|| a token; for a channel |a_u| * ||W_u||, the product that Wanda takes a weight at a time (https://arxiv.org/abs/2306.11695).
    """

    source: ClassVar[Source] = "activations"

    def __call__(self, seen: Evidence) -> Float[Tensor, "B U"]:
        assert seen.values is not None and seen.mask is not None
        values, outgoing = seen.values.float(), _outgoing(seen.part)  # U E D
        if seen.part.unit_width == 1:  # a million products of one number each would cost more than the model
            return _mean_over_tokens(values[..., 0].abs() * outgoing[:, 0].norm(dim=-1), seen.mask)
        gram = outgoing @ outgoing.transpose(1, 2)  # U E E: ||a W||^2 = a W W' a'
        squared = (torch.einsum("btue,uef->btuf", values, gram) * values).sum(dim=-1)
        return _mean_over_tokens(squared.clamp(min=0.0).sqrt(), seen.mask)


@dataclass(frozen=True)
class Taylor:
    """|sum over tokens of activation * gradient|: first-order change of the loss without the unit. https://arxiv.org/abs/1906.10771"""

    source: ClassVar[Source] = "gradients"

    def __call__(self, seen: Evidence) -> Float[Tensor, "B U"]:
        assert seen.effects is not None
        return seen.effects.float().abs()


@dataclass(frozen=True)
class Magnitude:
    """L2 norm of the weights that make the unit, times that of the weights that read it; no data. A control."""

    source: ClassVar[Source] = "weights"

    def __call__(self, seen: Evidence) -> Float[Tensor, "B U"]:
        part = seen.part
        incoming = torch.zeros(part.num_units, device=part.exit.weight.device)
        for rows in part.entries:
            own = rows.of(torch.arange(part.num_units, device=incoming.device))
            by_unit = by_input(rows.matrix).T[own].float().reshape(part.num_units, -1)
            incoming += by_unit.pow(2).sum(dim=-1)
        return (incoming.sqrt() * _outgoing(part).flatten(1).norm(dim=-1))[None]


@dataclass(frozen=True)
class Random:
    """Uniform in [0, 1), from a seed; no data. A control."""

    source: ClassVar[Source] = "weights"
    seed: int = 0

    def __call__(self, seen: Evidence) -> Float[Tensor, "B U"]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + seen.part_index)
        return torch.rand(1, seen.part.num_units, generator=generator)


WIDTH_SCORES: dict[str, type[WidthScore]] = {
    "activation": Activation,
    "contribution": Contribution,
    "taylor": Taylor,
    "magnitude": Magnitude,
    "random": Random,
}


@dataclass
class WidthScan:
    """L2 mean over samples of a score, for each part of a model, summed as calibration text streams by. Memory O(units)."""

    score: WidthScore
    parts: Sequence[Part]
    num_samples: int = 0
    _sums: dict[int, Tensor] = field(default_factory=dict)

    def update(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> None:
        """Run one batch (right-padded) and add its samples. Not for scores that read weights alone."""
        if self.score.source == "activations":
            with torch.no_grad(), watched(self.parts, self._see(attention_mask)):
                model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        else:
            for index, effects in enumerate(gate_effects(model, self.parts, input_ids, attention_mask)):
                self._add(Evidence(self.parts[index], index, effects=effects))
        self.num_samples += len(input_ids)

    def scores(self) -> list[Float[Tensor, "U"]]:
        """Return the scores of every part's units, in the order of the parts."""
        if self.score.source == "weights":
            with torch.no_grad():
                return [self._of_weights(index, part) for index, part in enumerate(self.parts)]
        return [(self._sums[index] / self.num_samples).sqrt().cpu() for index in range(len(self.parts))]

    def _of_weights(self, index: int, part: Part) -> Float[Tensor, "U"]:
        bring(part.block)
        return self.score(Evidence(part, index))[0].cpu()

    def _see(self, attention_mask: Int[Tensor, "B T"]):
        def see(index: int, inputs: Tensor) -> None:
            part = self.parts[index]
            values = inputs.reshape(*attention_mask.shape, part.num_units, part.unit_width)
            self._add(Evidence(part, index, values=values, mask=attention_mask.float()))

        return see

    def _add(self, seen: Evidence) -> None:
        total = self.score(seen).double().pow(2).sum(dim=0)
        self._sums[seen.part_index] = self._sums.get(seen.part_index, torch.zeros_like(total)) + total


def gate_effects(
    model: PreTrainedModel, parts: Sequence[Part], input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
) -> list[Float[Tensor, "B U"]]:
    """Return for each part the loss derivative by a gate on each unit. Per sample, nats a token, from one backward pass.

    That is the sum over tokens of activation * gradient, without keeping either.
    """
    gates = [torch.ones(len(input_ids), part.num_units, device=input_ids.device) for part in parts]
    for gate in gates:
        gate.requires_grad_(True)

    def gated(part: Part, gate: Tensor):
        def before(module: nn.Module, args: tuple) -> tuple:
            spread = gate.to(args[0].dtype).repeat_interleave(part.unit_width, dim=1)[:, None]  # B 1 N
            wide = args[0].reshape(*input_ids.shape, num_inputs(part.exit))  # OPT flattens batch and tokens there
            return ((wide * spread).reshape(args[0].shape), *args[1:])

        return before

    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooks = [part.exit.register_forward_pre_hook(gated(part, gate)) for part, gate in zip(parts, gates, strict=True)]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            targets = input_ids[:, 1:].masked_fill(attention_mask[:, 1:] == 0, -100)
            losses = nn.functional.cross_entropy(
                logits[:, :-1].float().transpose(1, 2), targets, reduction="none", ignore_index=-100
            )
            per_sample = losses.sum(dim=1) / (targets != -100).sum(dim=1).clamp(min=1)
            return list(torch.autograd.grad(per_sample.sum(), gates))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def highest(scores: Float[Tensor, "U"], num_kept: int) -> Int[Tensor, "K"]:
    """Return the indices of the `num_kept` highest scores, ascending; of equal scores the earlier unit stays."""
    return scores.argsort(descending=True, stable=True)[:num_kept].sort().values


@contextmanager
def watched(parts: Sequence[Part], see) -> Iterator[None]:
    """Hand what each exit matrix reads to `see(part index, inputs)` while the block runs."""
    hooks = [
        part.exit.register_forward_pre_hook(lambda module, args, index=index: see(index, args[0]))
        for index, part in enumerate(parts)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _outgoing(part: Part) -> Float[Tensor, "U E D"]:
    return by_input(part.exit).float().unflatten(0, (part.num_units, part.unit_width))


def _mean_over_tokens(per_token: Float[Tensor, "B T U"], mask: Float[Tensor, "B T"]) -> Float[Tensor, "B U"]:
    return (per_token * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
