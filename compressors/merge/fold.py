"""Fold what training changed into the weights it sits on, so that the result is a plain model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

PREFIX = "base_model.model."
MAGNITUDE = ".lora_magnitude_vector"


def fold_adapter(
    base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], *, scale: float, is_transposed: bool = False
) -> dict[str, Tensor]:
    """Return the base weights with W + scale * B A wherever the adapter has a pair. DoRA also rescales the rows.

    DoRA: W' = m * (W + scale * B A) / ||W + scale * B A||, norm and m one number an output row (https://arxiv.org/abs/2402.09353).
    Computed in float32 and rounded once to the base's dtype; never into quantized weights, which ruins them
    (https://github.com/huggingface/peft/issues/2321). `is_transposed`: the base stores (in, out), as GPT-2's Conv1D does.
    Raises ValueError for an adapter tensor without a place in the base, or of a shape that does not fit.
    """
    folded = dict(base)
    for target, pair in adapter_pairs(adapter).items():
        if target not in base:
            raise ValueError(f"adapter tensor {pair.name!r} has no place in the base model")
        folded[target] = fold_pair(target, base[target], pair, scale=scale, is_transposed=is_transposed)
    return folded


@dataclass(frozen=True)
class Pair:
    """What an adapter adds to one matrix: B A, under DoRA also the magnitude of each output row. `name` is A's in the adapter."""

    name: str
    down: Float[Tensor, "R I"]
    up: Float[Tensor, "O R"]
    magnitude: Float[Tensor, "O"] | None


def adapter_pairs(adapter: Mapping[str, Tensor]) -> dict[str, Pair]:
    """Return an adapter's pairs by the name of the weight each sits on. Raises ValueError for a tensor of another kind."""
    pairs = {}
    for name, down in adapter.items():
        if not name.endswith(".lora_A.weight"):
            if not name.endswith((".lora_B.weight", MAGNITUDE)):
                raise ValueError(f"adapter tensor {name!r} is not of a low-rank adapter and cannot be folded")
            continue
        stem = name.removesuffix(".lora_A.weight")
        pairs[f"{stem.removeprefix(PREFIX)}.weight"] = Pair(
            name, down, adapter[f"{stem}.lora_B.weight"], adapter.get(f"{stem}{MAGNITUDE}")
        )
    return pairs


def fold_pair(target: str, weight: Tensor, pair: Pair, *, scale: float, is_transposed: bool = False) -> Tensor:
    """Return one weight with its pair folded in, as `fold_adapter` does."""
    if not weight.is_floating_point():
        raise ValueError(f"{target} is quantized ({weight.dtype}): fold into the float model it came from")
    delta = scale * (pair.up.float() @ pair.down.float())
    delta = delta.T if is_transposed else delta
    if delta.shape != weight.shape:
        raise ValueError(f"{target}: adapter {tuple(delta.shape)} does not fit weight {tuple(weight.shape)}")
    updated = weight.float() + delta
    if pair.magnitude is not None:
        norm = updated.norm(dim=0 if is_transposed else 1, keepdim=True)
        updated = updated * (pair.magnitude.float().reshape(norm.shape) / norm)
    return updated.to(weight.dtype)


@dataclass(frozen=True)
class ExpertPair:
    """What an adapter adds to a fused tensor, B_e A_e for expert e. PEFT lays the pairs of all experts out in two matrices."""

    name: str
    # rows by expert, then by rank
    down: Float[Tensor, "NR I"]
    # columns by rank, then by expert
    up: Float[Tensor, "O RN"]

    def update(self, target: str, shape: Sequence[int], *, scale: float, is_transposed: bool) -> Float[Tensor, "N O I"]:
        """Return scale * B_e A_e of all experts in float32. `is_transposed`: the tensor holds (expert, in, out)."""
        num_experts = shape[0]
        if len(self.down) % num_experts or self.up.shape[1] != len(self.down):
            raise ValueError(f"{target}: an adapter of {len(self.down)} rows is not of {num_experts} experts")
        down = self.down.float().reshape(num_experts, -1, self.down.shape[1])
        up = self.up.float().reshape(len(self.up), -1, num_experts).permute(2, 0, 1)
        delta = scale * (up @ down)
        delta = delta.transpose(1, 2) if is_transposed else delta
        if delta.shape != tuple(shape):
            raise ValueError(f"{target}: adapter {tuple(delta.shape)} does not fit weight {tuple(shape)}")
        return delta


def split_experts(
    adapter: Mapping[str, Tensor], targets: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, ExpertPair]]:
    """Return an adapter's tensors on plain matrices, and its pairs on the fused tensors `targets`.

    Targets of a module are in its own order. PEFT wraps it once for each; the first of them is the innermost, named by the most `base_layer`.
    """
    rest, pairs = dict(adapter), {}
    for target in targets:
        module = target.rpartition(".")[0]
        own = [other for other in targets if other.rpartition(".")[0] == module]
        stem = f"{PREFIX}{module}{'.base_layer' * (len(own) - 1 - own.index(target))}"
        names = [f"{stem}.lora_{letter}.weight" for letter in "AB"]
        if missing := [name for name in names if name not in rest]:
            raise ValueError(f"the adapter's config names {target}, its file has no {missing[0]}; train it again")
        pairs[target] = ExpertPair(names[0], *(rest.pop(name) for name in names))
    return rest, pairs


def fold_weights(base: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the base weights with the trained ones in their places, rounded to the base's dtype.

    Raises ValueError for a weight without a place in the base, or of another shape.
    """
    folded = dict(base)
    for name, value in trained.items():
        if name not in base or base[name].shape != value.shape:
            raise ValueError(f"trained weight {name!r} {tuple(value.shape)} has no place in the base model")
        folded[name] = value.to(base[name].dtype)
    return folded


def check_fold(
    adapter_logits: Tensor, folded_logits: Tensor, base_logits: Tensor, tolerance: float
) -> tuple[float, float]:
    """Return (max |folded - adapter|, max |folded - base|) in logits.

    Raises ValueError when the fold differs from the adapter by more than `tolerance` of the largest logit, or not at all from the base.
    """
    error = float((folded_logits.float() - adapter_logits.float()).abs().max())
    change = float((folded_logits.float() - base_logits.float()).abs().max())
    scale = float(adapter_logits.float().abs().max().clamp(min=1.0))
    if not error <= tolerance * scale:
        raise ValueError(f"folded logits differ from the adapter's by {error:.3g} (allowed {tolerance * scale:.3g})")
    if change == 0.0:
        raise ValueError("folding changed nothing: the adapter is all zero, or was not applied")
    return error, change
