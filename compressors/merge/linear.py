"""Average models, or add up what each has learned since their common base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.compressors.merge.group import Merged, TensorGroup, combined, combined_deltas
from attar.compressors.merge.setting import Setting, TensorLocation, check_setting, check_settings, resolve


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Weighted mean of the models: sum w_i x_i / sum w_i. https://arxiv.org/abs/2203.05482

    `weights`: one setting a model, in the order of the students; empty: equal ones. With `normalize` false the sum is not divided.
    """

    weights: Sequence[Setting] = ()
    normalize: bool = True

    def __post_init__(self) -> None:
        check_settings("weights", self.weights)

    @property
    def needs_base(self) -> bool:
        return False

    @property
    def num_models(self) -> tuple[int, int]:
        return 2, 0

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the mean. Raises ValueError when the weights to divide by sum to zero."""
        weights = model_weights(self.weights, group)
        return Merged(combined(group, normalized(weights, group.location) if self.normalize else weights), "linear")


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic:
    """Base plus the weighted sum of the models' changes: b + scale * sum w_i (x_i - b). https://arxiv.org/abs/2212.04089

    `weights`: one setting a model; empty: 1 each; a negative one unlearns. `normalize` divides the sum by that of the weights.
    """

    weights: Sequence[Setting] = ()
    scale: Setting = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        check_settings("weights", self.weights)
        check_setting("scale", self.scale)

    @property
    def needs_base(self) -> bool:
        return True

    @property
    def num_models(self) -> tuple[int, int]:
        return 1, 0

    def __call__(self, group: TensorGroup) -> Merged:
        """Return the sum. Raises ValueError when the weights to divide by sum to zero."""
        weights, scale = model_weights(self.weights, group), resolve(self.scale, group.location)
        weights = normalized(weights, group.location) if self.normalize else weights
        return Merged(combined_deltas(group, [scale * weight for weight in weights]), "task_arithmetic")


def model_weights(settings: Sequence[Setting], group: TensorGroup) -> list[float]:
    """Return the weight of each model at the group's place, 1 where none are given."""
    return [resolve(setting, group.location) for setting in settings] or [1.0] * len(group.models)


def normalized(weights: Sequence[float], location: TensorLocation) -> list[float]:
    """Return the weights divided by their sum. Raises ValueError when it is zero."""
    total = sum(weights)
    if abs(total) < 1e-8:
        raise ValueError(f"weights sum to {total:g} at {location.name}: they cannot be normalized")
    return [weight / total for weight in weights]
