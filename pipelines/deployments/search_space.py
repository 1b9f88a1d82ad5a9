"""What a sweep varies, and what it looks for. Fields of a recipe with their values or ranges, and three goals."""

from __future__ import annotations

from typing import Any, Literal

import optuna
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Dimension(BaseModel):
    """One field of the recipe: the values it takes, or the range it is drawn from."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"oneOf": [{"required": ["field", "values"]}, {"required": ["field", "low", "high"]}]},
    )

    field: str = Field(pattern=r"^[\w-]+\.(config|inputs)\.[\w.]+$", description="node.config.field")
    values: list[Any] = Field([], max_length=200, description="Values to choose from, of any kind.")
    low: float = Field(0.0, description="Lower end of a range.")
    high: float = Field(0.0, description="Upper end of a range, included.")
    scale: Literal["linear", "log", "integer"] = Field("linear", description="How the range is drawn from.")

    @model_validator(mode="after")
    def _has_one_kind(self) -> Dimension:
        if not self.values and not self.low < self.high:
            raise ValueError(f"{self.field}: give values, or low below high")
        if not self.values and self.scale == "log" and self.low <= 0:
            raise ValueError(f"{self.field}: a log scale begins above 0, low is {self.low}")
        return self

    def suggest(self, trial: optuna.Trial) -> Any:
        """Return a value for this trial."""
        if self.values:
            # by position: optuna keeps only plain values, and a recipe's may be lists
            return self.values[trial.suggest_categorical(self.field, list(range(len(self.values))))]
        if self.scale == "integer":
            return trial.suggest_int(self.field, round(self.low), round(self.high))
        return trial.suggest_float(self.field, self.low, self.high, log=self.scale == "log")

    def drawn(self, value: Any) -> Any:
        """Return a value as the search draws it: its position, or itself. None where it is not of this dimension."""
        if self.values:
            return self.values.index(value) if value in self.values else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return round(value) if self.scale == "integer" else float(value)


def make_sampler(kind: str, space: list[Dimension], seed: int) -> optuna.samplers.BaseSampler:
    """Return optuna's sampler: every combination (grid), or guesses that learn from the trials before (bayesian). Raises ValueError."""
    if kind == "bayesian":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    ranges = [dimension.field for dimension in space if not dimension.values]
    if ranges:
        raise ValueError(f"a grid needs values, but {ranges[0]} has a range")
    return optuna.samplers.GridSampler({d.field: list(range(len(d.values))) for d in space}, seed=seed)
