"""Merge low-rank adapters of one base into one adapter. Its distance from the sum of their updates is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.merge.fold import Pair


@dataclass(frozen=True)
class Factors:
    """One matrix's update as up @ down, its scale multiplied in."""

    down: Float[Tensor, "R I"]
    up: Float[Tensor, "O R"]


class AdapterMerge(Protocol):
    """Makes one update of several. Frozen, with its parameters as fields."""

    def __call__(self, updates: Sequence[Factors], weights: Sequence[float]) -> Factors: ...


@dataclass(frozen=True, kw_only=True)
class Concat:
    """The exact sum of the updates; its rank is the sum of the ranks. sum w_i B_i A_i = [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...]."""

    def __call__(self, updates: Sequence[Factors], weights: Sequence[float]) -> Factors:
        ups = [weight * update.up for update, weight in zip(updates, weights, strict=True)]
        return Factors(torch.cat([update.down for update in updates]), torch.cat(ups, dim=1))


@dataclass(frozen=True, kw_only=True)
class Svd:
    """The closest update of `rank` to sum w_i B_i A_i in the Frobenius norm (Eckart-Young). Exact only if the sum has no higher rank.

    Found from QR of the concatenated factors and an SVD as small as the sum of the ranks, never of the matrix. `rank` 0: the
    largest of the adapters' ranks.
    """

    rank: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise ValueError(f"rank is {self.rank!r}; it must be a whole number, 0 or more")

    def __call__(self, updates: Sequence[Factors], weights: Sequence[float]) -> Factors:
        exact = Concat()(updates, weights)
        rank = self.rank or max(len(update.down) for update in updates)
        left, left_core = torch.linalg.qr(exact.up.double())
        right, right_core = torch.linalg.qr(exact.down.double().T)
        u, values, vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
        # a fixed sign of each pair: an SVD's own may change with the machine
        peaks = u.gather(0, u.abs().argmax(dim=0, keepdim=True))
        signs, roots = torch.where(peaks < 0, -1.0, 1.0).double(), values[:rank].sqrt()
        up = left @ (u * signs)[:, :rank] * roots
        down = (right @ (vh.T * signs)[:, :rank] * roots).T
        return Factors(down.to(exact.down.dtype).contiguous(), up.to(exact.up.dtype).contiguous())


@dataclass(frozen=True, kw_only=True)
class LinearFactors:
    """(sum sqrt(w_i) B_i) (sum sqrt(w_i) A_i), as PEFT's `linear`: the rank stays, but products of different adapters come in.

    Not the sum of the updates: two equal adapters of weight 1/2 give twice their update. All ranks must be equal; a negative weight
    takes its sign to A.
    """

    def __call__(self, updates: Sequence[Factors], weights: Sequence[float]) -> Factors:
        if len({update.down.shape for update in updates}) > 1:
            ranks = ", ".join(str(len(update.down)) for update in updates)
            raise ValueError(f"ranks {ranks}: method 'linear' adds factors of one rank; use concat or svd")
        roots = [math.sqrt(abs(weight)) for weight in weights]
        down = sum(
            math.copysign(root, weight) * update.down
            for update, root, weight in zip(updates, roots, weights, strict=True)
        )
        up = sum(root * update.up for update, root in zip(updates, roots, strict=True))
        return Factors(down, up)  # type: ignore[arg-type]


ADAPTER_MERGES: dict[str, type[AdapterMerge]] = {"concat": Concat, "svd": Svd, "linear": LinearFactors}


def merged_updates(
    method: AdapterMerge, adapters: Sequence[tuple[Mapping[str, Pair], float]], weights: Sequence[float]
) -> tuple[dict[str, Factors], dict[str, float]]:
    """Return the merged update of every matrix that some adapter changes, all of one rank, and each one's relative error.

    `adapters` are pairs by matrix, with the scale of B A. The error is |merged - sum w_i s_i B_i A_i| / |sum|, Frobenius norms;
    an adapter without a matrix leaves it as it is. Raises ValueError for DoRA pairs (their magnitudes do not add up) and for
    numbers that are not finite.
    """
    targets = sorted({target for pairs, _ in adapters for target in pairs})
    merged, errors = {}, {}
    for target in targets:
        rank_of = [len(next(iter(pairs.values())).down) for pairs, _ in adapters]
        known = next(pairs[target] for pairs, _ in adapters if target in pairs)
        updates = [
            _update(target, pairs.get(target), known, scale, rank)
            for (pairs, scale), rank in zip(adapters, rank_of, strict=True)
        ]
        merged[target] = method(updates, weights)
        errors[target] = relative_error(merged[target], Concat()(updates, weights))
    return _same_rank(merged), errors


def relative_error(merged: Factors, exact: Factors) -> float:
    """Return |merged - exact| / |exact|, from the factors alone; 0 for two zeros."""
    up = torch.cat([merged.up.double(), -exact.up.double()], dim=1)
    down = torch.cat([merged.down.double(), exact.down.double()])
    size = _norm(exact.up.double(), exact.down.double())
    return _norm(up, down) / size if size else 0.0


def _update(target: str, pair: Pair | None, known: Pair, scale: float, rank: int) -> Factors:
    if pair is None:
        return Factors(
            known.down.new_zeros(rank, known.down.shape[1]).float(), known.up.new_zeros(len(known.up), rank).float()
        )
    if pair.magnitude is not None:
        raise ValueError(f"{target}: a DoRA adapter is no sum of updates; fold it into its base and merge the models")
    if pair.down.shape[1] != known.down.shape[1] or len(pair.up) != len(known.up):
        raise ValueError(f"{target}: the adapters are of matrices of different shapes: they cannot be merged")
    if not (bool(pair.down.isfinite().all()) and bool(pair.up.isfinite().all())):
        raise ValueError(f"{pair.name} holds a number that is not finite (NaN or infinity)")
    # PEFT's `linear` splits the scale evenly between the factors; a product does not tell
    root = math.sqrt(scale)
    return Factors(root * pair.down.float(), root * pair.up.float())


def _same_rank(merged: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return the factors filled up with zeros to the largest rank: an adapter has one."""
    rank = max(len(update.down) for update in merged.values())
    filled = {}
    for target, update in merged.items():
        missing = rank - len(update.down)
        down = torch.cat([update.down, update.down.new_zeros(missing, update.down.shape[1])])
        filled[target] = Factors(down, torch.cat([update.up, update.up.new_zeros(len(update.up), missing)], dim=1))
    return filled


def _norm(up: Float[Tensor, "O R"], down: Float[Tensor, "R I"]) -> float:
    return math.sqrt(max(0.0, float(((up.T @ up) * (down @ down.T)).sum())))
