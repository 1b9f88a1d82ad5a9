"""Decide by intervals whether a candidate may become champion. Each limit is passed surely, failed surely, or too few questions tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

PASSED, FAILED, TOO_FEW = "passed", "failed", "too few questions"
Multiplicity = Literal["holm", "each"]
# More than so many times the questions are not asked for: the figure lies on its limit.
MAX_GROWTH = 200.0
NUM_HALVINGS = 30


class Evidence(Protocol):
    """A figure as far as it is known: `stages/` makes it of what was measured."""

    @property
    def value(self) -> float:
        """The figure."""
        ...

    @property
    def num_units(self) -> int:
        """How many questions (texts, rounds) it was measured on."""
        ...

    @property
    def unit(self) -> str:
        """What they are."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether it has no spread."""
        ...

    def bound(self, level: float, *, is_upper: bool) -> float:
        """Return the one-sided bound at an error level."""
        ...

    def p_value(self, limit: float, *, is_upper: bool) -> float:
        """Return the p-value against the figure being within the limit: at most it, or with `is_upper` False at least it."""
        ...

    def grown(self, factor: float) -> Evidence:
        """Return what so many times the questions would tell, were they answered alike."""
        ...


@dataclass(frozen=True)
class Claim:
    """A limit, and the evidence for it; none where `undecided` says why nothing can be told."""

    name: str
    limit: float
    is_lower_better: bool
    lets_through: str
    evidence: Evidence | None
    undecided: str = ""

    def doubt(self) -> float:
        """Return the p-value against the figure being within its limit."""
        return 1.0 if self.evidence is None else self.evidence.p_value(self.limit, is_upper=self.is_lower_better)

    def contrary(self) -> float:
        """Return the p-value against the figure being past its limit."""
        return 1.0 if self.evidence is None else self.evidence.p_value(self.limit, is_upper=not self.is_lower_better)

    @property
    def has_spread(self) -> bool:
        """Whether the claim is a test, which can err, and counts among the others."""
        return self.evidence is None or not self.evidence.is_exact

    @property
    def is_on_good_side(self) -> bool:
        """Whether the figure itself is within the limit."""
        if self.evidence is None:
            return False
        return self.evidence.value <= self.limit if self.is_lower_better else self.evidence.value >= self.limit


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict. `level`: the one-sided error that it was held to."""

    claim: Claim
    verdict: str
    level: float

    @cached_property
    def num_more(self) -> int | None:
        """How many more questions would decide, at the disagreement seen so far; None where it is decided, or none would."""
        return _num_more(self.claim, self.level) if self.verdict == TOO_FEW else None

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values, under the names that reports read."""
        evidence = self.claim.evidence
        low, high = self._ends()
        return {
            "name": self.claim.name,
            "measured": math.nan if evidence is None else evidence.value,
            "limit": self.claim.limit,
            "is_lower_better": self.claim.is_lower_better,
            "low": low,
            "high": high,
            "known": "" if low is None or high is None else f"[{low:.3g}, {high:.3g}]",
            "measured_on": "" if evidence is None or evidence.is_exact else f"{evidence.num_units} {evidence.unit}",
            "undecided": self.advice,
            "has_passed": self.verdict == PASSED,
            "verdict": self.verdict,
            "laxness": self.claim.lets_through,
            "level": self.level,
            "num_more": self.num_more,
        }

    @property
    def advice(self) -> str:
        """What would decide, where nothing is decided; empty where it is."""
        evidence = self.claim.evidence
        if self.verdict != TOO_FEW or evidence is None:
            return self.claim.undecided
        if self.num_more is None:
            return f"the figure lies on its limit: no number of {evidence.unit} would tell"
        what = "pass" if self.claim.is_on_good_side else "fail"
        return f"about {self.num_more:,} more {evidence.unit} would {what} it, answered as these were"

    def _ends(self) -> tuple[float | None, float | None]:
        """Return the one-sided bounds at the claim's level, where there are any."""
        evidence = self.claim.evidence
        if evidence is None or evidence.is_exact:
            return None, None
        low, high = (evidence.bound(self.level, is_upper=is_upper) for is_upper in (False, True))
        return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)

    def __str__(self) -> str:
        check = self.as_dict()
        sign = "<=" if check["is_lower_better"] else ">="
        on = f" on {check['measured_on']}" if check["measured_on"] else ""
        level = f", one-sided level {self.level:.3g}" if self.claim.has_spread else ", exact"
        known = f" {check['known']}".rstrip()
        return f"{check['name']} {check['measured']:.4g}{known}{on} {sign} {check['limit']:.4g}{level}: {self.verdict}"


def judge_claims(claims: Sequence[Claim], level: float, multiplicity: Multiplicity = "holm") -> list[Judged]:
    """Return each claim with its verdict, in their order.

    Claims of having passed and claims of having failed are two families, and `level` bounds the chance that any claim of a family is wrong:
    with `holm` by his step-down rule over the claims that have a spread (https://www.jstor.org/stable/4615733), with `each` for every claim
    alone, which is enough for the promotion, since all must pass (Berger, https://doi.org/10.1080/00401706.1982.10487790), and not for its lines.
    """
    tests = [index for index, claim in enumerate(claims) if claim.has_spread]
    passes = dict(zip(tests, _rejected([claims[index].doubt() for index in tests], level, multiplicity), strict=True))
    fails = dict(zip(tests, _rejected([claims[index].contrary() for index in tests], level, multiplicity), strict=True))
    return [_judged(claim, passes.get(index), fails.get(index), level) for index, claim in enumerate(claims)]


def whole_verdict(verdicts: Sequence[str]) -> str:
    """Return what the gate says: failed where any check has, passed where all have, else that too few questions tell."""
    if FAILED in verdicts:
        return FAILED
    return PASSED if all(verdict == PASSED for verdict in verdicts) else TOO_FEW


def _rejected(p_values: Sequence[float], level: float, multiplicity: Multiplicity) -> list[tuple[bool, float]]:
    """Return of each p-value whether it is small enough, and the level that it was held to."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    results: dict[int, tuple[bool, float]] = {}
    goes_on = True
    for rank, index in enumerate(order):
        own = level / (len(order) - rank) if multiplicity == "holm" else level
        is_small = p_values[index] <= own
        goes_on = is_small and (goes_on or multiplicity == "each")
        results[index] = (goes_on, own)
    return [results[index] for index in range(len(p_values))]


def _judged(claim: Claim, passes: tuple[bool, float] | None, fails: tuple[bool, float] | None, level: float) -> Judged:
    if passes is None or fails is None:  # exact
        return Judged(claim, PASSED if claim.doubt() == 0.0 else FAILED, level)
    if claim.evidence is not None and math.isnan(claim.evidence.value):
        return Judged(claim, FAILED, passes[1])  # what is no number passes nothing
    if fails[0]:
        return Judged(claim, FAILED, fails[1])
    if passes[0]:
        return Judged(claim, PASSED, passes[1])
    own = passes[1] if claim.is_on_good_side else fails[1]
    return Judged(claim, TOO_FEW, own)


def _num_more(claim: Claim, level: float) -> int | None:
    """Return how many more questions would decide at a level, at the disagreement seen so far. None where that is out of reach."""
    evidence = claim.evidence
    if evidence is None or not evidence.num_units:
        return None
    is_upper = claim.is_lower_better == claim.is_on_good_side

    def decides(factor: float) -> bool:
        return evidence.grown(factor).p_value(claim.limit, is_upper=is_upper) <= level

    high = 2.0
    while not decides(high):
        high *= 2
        if high > MAX_GROWTH:
            return None
    low = 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return max(1, math.ceil((high - 1.0) * evidence.num_units))
