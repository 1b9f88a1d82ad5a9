"""A budget in words, such as `bytes<=250MB, kl<=0.25, minutes<=60`, as limits on figures."""

from __future__ import annotations

import re
from dataclasses import dataclass

from attar.compressors.catalogue import did_you_mean

# What may be limited: figure -> whether lower is better, and what it is.
FIGURES = {
    "bytes": (True, "size of the weights on disk"),
    "kl": (True, "KL to the original in nats a token, mean over the texts of compare"),
    "perplexity": (True, "perplexity divided by the original's"),
    "retention": (False, "accuracy divided by the original's"),
    "seconds": (True, "seconds to decode a token"),
    "minutes": (True, "minutes to build the model and all it is made from"),
}
UNITS = {"": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
LIMIT = re.compile(
    r"(?P<figure>\w+)\s*(?P<sign><=|>=)\s*(?P<value>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?)\s*(?P<unit>[a-z]*)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Limit:
    """A figure with its largest, or smallest, accepted value."""

    figure: str
    is_upper: bool
    value: float

    def holds(self, value: float) -> bool:
        """Say whether a value is within the limit."""
        return value <= self.value if self.is_upper else value >= self.value


def read_budget(text: str) -> list[Limit]:
    """Return the limits of a budget. Raises ValueError that names the part which is none."""
    limits = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = LIMIT.fullmatch(part)
        if match is None:
            raise ValueError(
                f"budget {part!r} is no limit; accepted: FIGURE<=NUMBER or FIGURE>=NUMBER, such as bytes<=250MB"
            )
        figure, unit = match["figure"].lower(), match["unit"].lower()
        if figure not in FIGURES:
            raise ValueError(f"budget: unknown figure {match['figure']!r}.{did_you_mean(figure, FIGURES)}")
        if unit not in UNITS or (unit and figure != "bytes"):
            raise ValueError(
                f"budget {part!r}: unit {match['unit']!r} is unknown; accepted: kB, MB, GB of bytes, none of others"
            )
        is_upper, is_lower_better = match["sign"] == "<=", FIGURES[figure][0]
        if is_upper != is_lower_better:
            raise ValueError(
                f"budget {part!r}: of {figure} {'less' if is_lower_better else 'more'} is better; turn the sign"
            )
        limits.append(Limit(figure, is_upper, float(match["value"]) * UNITS[unit]))
    if not limits:
        raise ValueError("budget is empty; accepted: limits such as bytes<=250MB, kl<=0.25, minutes<=60")
    return limits
