"""What a gate on intervals can hold a limit against. Each measure with its better side, what it is read from, and what a limit lets through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The two evaluations, what they say of the served model, the comparison of the model with its original, or the check of its behaviour.
Source = Literal["evaluation", "served", "comparison", "behaviour"]


@dataclass(frozen=True)
class Measure:
    """A figure that a limit is held against. `is_by_data`: it can be asked of a single task or text, or of a number of clients."""

    name: str
    is_lower_better: bool
    source: Source
    what: str
    is_by_data: bool = False
    # accepted limits, both ends outside
    above: float = 0.0
    below: float = float("inf")

    def lets_through(self, limit: float) -> str:
        """Return what a model may lose and still pass."""
        if self.name.endswith("_drop"):
            return f"{100 * limit:.3g} points of the {self.what} may be lost"
        if self.name == "agreement":
            return f"{100 * (1 - limit):.3g}% of the tokens may differ from the original's"
        if self.name == "kl_nats":
            return f"{limit:.3g} nats a token from the original"
        share = f"{100 * abs(1 - limit):.3g}%"
        if self.is_lower_better:
            return f"{self.what} may rise by {share}" if limit >= 1 else f"{self.what} must fall by {share}"
        return f"{share} of the {self.what} may be lost" if limit <= 1 else f"{self.what} must rise by {share}"


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("accuracy_drop", True, "evaluation", "accuracy", is_by_data=True, above=-1.0, below=1.0),
        Measure("accuracy_retention", False, "evaluation", "accuracy", is_by_data=True),
        Measure("perplexity_ratio", True, "evaluation", "perplexity"),
        Measure("prefill_latency_ratio", True, "evaluation", "prefill seconds"),
        Measure("decode_latency_ratio", True, "evaluation", "decode seconds per token"),
        Measure("served_throughput_ratio", False, "served", "served tokens a second", is_by_data=True),
        Measure("served_latency_ratio", True, "served", "seconds of a served request", is_by_data=True),
        Measure("memory_ratio", True, "evaluation", "memory"),
        Measure("bytes_ratio", True, "evaluation", "bytes"),
        Measure("parameters_ratio", True, "evaluation", "parameters"),
        Measure("frechet_ratio", True, "evaluation", "Frechet distance"),
        Measure("recall_retention", False, "evaluation", "recall"),
        Measure("forwards_ratio", True, "evaluation", "forwards an image"),
        Measure("kl_nats", True, "comparison", "KL", is_by_data=True),
        Measure("agreement", False, "comparison", "agreement", is_by_data=True, below=1.0),
        Measure("loss_ratio", True, "comparison", "perplexity", is_by_data=True),
        Measure("behaviour_drop", True, "behaviour", "behaviour", is_by_data=True, above=-1.0, below=1.0),
    )
}
