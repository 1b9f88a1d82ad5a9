"""How narrow a net becomes under a number of parameters. Every width by the same share, or where the scores lose least a parameter."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from attar.compressors.prune.channels.channel_map import ChannelMap, Counts

Scores = Mapping[str, Float[Tensor, "U"]]


@dataclass(frozen=True)
class Choice:
    """What may fall: the widths of a net but the fixed ones, whose numbers are given, in steps."""

    channels: ChannelMap
    config: Any
    multiple_of: int
    fixed: Counts = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, width in self.channels.widths.items():
            width.step(name, self.multiple_of)  # refuses steps that do not divide

    @property
    def start(self) -> dict[str, int]:
        """The numbers before anything falls but what is fixed."""
        return {**self.channels.values, **self.fixed}

    def can_say(self, values: Counts) -> bool:
        """Say whether the family's config has words for these numbers."""
        try:
            self.channels.tell(copy.deepcopy(self.config), values)
        except ValueError:
            return False
        return True

    def even(self, budget: int) -> dict[str, int]:
        """Return the widest net of at most so many parameters whose widths all keep the same share.

        Each goes to its nearest step. Ratios between widths stay. Raises ValueError where no share fits, with the nearest.
        """
        self._refuse_idle(budget)
        if self.channels.num_parameters(self.start) <= budget:  # by what is fixed
            return self.start
        sizes = self._free_sizes()
        # at each of them a width falls: rounding to the nearest turns half a step below a number
        shares = sorted(
            {
                (number - step / 2) / value
                for value, step, least in sizes.values()
                for number in _below(value, step, least)
            }
        )
        if not shares:
            raise ValueError(
                f"size: no width has {self.multiple_of} channels to lose; accepted: a smaller size.multiple_of"
            )

        def at(share: float) -> dict[str, int]:
            fallen = {
                name: min(value, max(step, least, int(share * value / step + 0.5 + 1e-9) * step))
                for name, (value, step, least) in sizes.items()
            }
            return {**self.start, **fallen}

        low, high = -1, len(shares)
        while high - low > 1:  # parameters grow with the share
            middle = (low + high) // 2
            low, high = (middle, high) if self.channels.num_parameters(at(shares[middle])) <= budget else (low, middle)
        for index in range(low, -1, -1):
            if self.can_say(at(shares[index])):
                return at(shares[index])
        nearest = next((at(share) for share in shares if self.can_say(at(share))), self.start)
        raise ValueError(self._unreachable(budget, "an even cut", self.channels.num_parameters(nearest)))

    def ranked(self, budget: int, scores: Scores, *, is_loss: bool) -> dict[str, int]:
        """Return numbers that fit, by the step that loses the lowest score a parameter, until they do.

        `is_loss`: scores of two spaces compare as they are; else each counts beside the mean of its space. Raises ValueError where no step is left.
        """
        self._refuse_idle(budget)
        lost = {name: _lost(space_scores, is_loss=is_loss) for name, space_scores in scores.items()}
        values = self.start
        while (now := self.channels.num_parameters(values)) > budget:
            counts = self.channels.counts(values)
            prices: dict[str, tuple[float, dict[str, int]]] = {}
            for name in self._free_sizes(ratios=True):
                if (lower := self._one_step(name, values)) is None:
                    continue
                freed = now - self.channels.num_parameters(lower)
                after = self.channels.counts(lower)
                price = sum(lost[space][after[space]] - lost[space][counts[space]] for space in counts)
                prices[name] = (price / max(freed, 1), lower)
            if not prices:
                raise ValueError(self._unreachable(budget, "a cut", now))
            values = min(prices.values(), key=lambda entry: entry[0])[1]
        return values

    def _free_sizes(self, *, ratios: bool = False) -> dict[str, tuple[int, int, int]]:
        return {
            name: (width.value, width.step(name, self.multiple_of), width.least)
            for name, width in self.channels.widths.items()
            if name not in self.fixed and (ratios or width.kind != "ratio")
        }

    def _one_step(self, name: str, values: Counts) -> dict[str, int] | None:
        """Return the numbers with one of them fallen to the next that the config can say, None where there is none."""
        _, step, least = self._free_sizes(ratios=True)[name]
        for number in reversed(_below(values[name], step, least)):
            if self.can_say(lower := {**values, name: number}):
                return lower
        return None

    def _refuse_idle(self, budget: int) -> None:
        whole = self.channels.num_parameters(self.channels.values)
        if budget >= whole:
            raise ValueError(f"size: {budget:,} parameters are no fewer than the model has; accepted: below {whole:,}")

    def _unreachable(self, budget: int, cut: str, nearest: int) -> str:
        whole = self.channels.num_parameters(self.channels.values)
        return (
            f"size: {budget:,} parameters cannot be reached by {cut} in multiples of {self.multiple_of}; the nearest leaves {nearest:,}, "
            f"{nearest / whole:.3f} of {whole:,}"
        )


def _below(value: int, step: int, least: int) -> range:
    """Return the multiples of a step below a number, none under the least."""
    return range(max(step, -(-least // step) * step), value, step)


def _lost(scores: Float[Tensor, "U"], *, is_loss: bool) -> list[float]:
    """Return what is lost when so many units stay, the highest, for every number of them."""
    ordered = scores.double().sort(descending=True).values
    total = float(ordered.sum())
    per_unit = 1.0 if is_loss else max(total / len(ordered), 1e-30)
    return [(total - held) / per_unit for held in [0.0, *ordered.cumsum(0).tolist()]]
