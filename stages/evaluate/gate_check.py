"""A limit of a gate on intervals, as a recipe writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from attar.registry.release.interval_gate import Claim, Evidence
from attar.registry.release.measures import MEASURES, Measure
from attar.stages.contract import StageConfig

MeasureName = Literal[
    "accuracy_drop",
    "accuracy_retention",
    "perplexity_ratio",
    "prefill_latency_ratio",
    "decode_latency_ratio",
    "served_throughput_ratio",
    "served_latency_ratio",
    "memory_ratio",
    "bytes_ratio",
    "parameters_ratio",
    "frechet_ratio",
    "recall_retention",
    "forwards_ratio",
    "kl_nats",
    "agreement",
    "loss_ratio",
    "behaviour_drop",
]


class GateCheck(StageConfig):
    """A limit that the bound of a measure's interval must keep."""

    measure: MeasureName
    """What is limited. A drop is original minus candidate. `compare` measures kl_nats, agreement, loss_ratio; `check_behaviour` behaviour_drop."""

    limit: float
    """Where a model is no longer good enough. Drops and ratios of losses, times and sizes are upper limits, retention and agreement lower ones."""

    data: str = ""
    """The task, the text of `compare` or the group of `check_behaviour`, how many clients ask ("4"); empty: all of them together."""

    @model_validator(mode="after")
    def _limit_means_something(self) -> GateCheck:
        measure = MEASURES[self.measure]
        if not measure.above < self.limit < measure.below:
            raise ValueError(
                f"limit of {self.measure} is {self.limit}; accepted: above {measure.above:g} and below {measure.below:g}"
            )
        if self.data and measure.source == "served" and not self.data.isdecimal():
            raise ValueError(f"data is {self.data!r}; accepted with {self.measure}: a number of clients, or nothing")
        if self.data and not measure.is_by_data:
            raise ValueError(f"data is {self.data!r}, but {self.measure} is not measured by task; leave data out")
        return self

    @property
    def definition(self) -> Measure:
        """What the measure is."""
        return MEASURES[self.measure]

    @property
    def title(self) -> str:
        """The check's name in tables: its measure, and what on."""
        return f"{self.measure} on {self.data}" if self.data else self.measure

    def claim(self, evidence: Evidence | None, undecided: str = "") -> Claim:
        """Return the check as the gate judges it."""
        measure = self.definition
        return Claim(
            self.title, self.limit, measure.is_lower_better, measure.lets_through(self.limit), evidence, undecided
        )
