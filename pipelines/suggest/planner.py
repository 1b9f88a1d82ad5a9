"""Which recipe to run next under a budget: past ones and their neighbours, with predicted figures and the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from attar.compressors.measure.closeness import Estimate
from attar.compressors.measure.jackknife import Regressor
from attar.pipelines.suggest.budget import FIGURES, Limit
from attar.pipelines.suggest.evidence import Case

# An interval at this error needs as many cases.
LEVEL, MIN_CASES = 0.1, 9
NUM_SUGGESTED = 3
# Quality is the first of these that the budget limits, else the first that was measured.
QUALITY = ("kl", "retention", "perplexity")


@dataclass(frozen=True)
class Suggestion:
    """A recipe with overrides. What is predicted of it with 90% intervals, whether it keeps the budget, and why.

    `settings`: of all its nodes, the overrides among them.
    """

    recipe: str
    model: str
    overrides: Mapping[str, Any]
    settings: Mapping[str, Any]
    predicted: Mapping[str, Estimate]
    standing: str
    why: str

    @property
    def command(self) -> str:
        """The command that runs it, up to the model."""
        sets = "".join(f" --set {path}={value}" for path, value in self.overrides.items())
        return f"attar run {self.recipe}{sets} --until {self.model}"


def suggest(cases: Sequence[Case], budget: Sequence[Limit]) -> list[Suggestion]:
    """Return the best recipes under a budget, best first. Raises ValueError where too little was measured to predict from.

    Figures are predicted on a logarithmic scale from the settings that vary, with jackknife+ intervals.
    """
    wanted = [limit.figure for limit in budget]
    known = [case for case in cases if all(figure in case.figures for figure in wanted)]
    if len(known) < MIN_CASES:
        raise ValueError(
            f"the store has {len(known)} measured models with {', '.join(dict.fromkeys(wanted))}; "
            f"accepted: at least {MIN_CASES}, from runs with an evaluation (and compare for kl); a sweep makes them"
        )
    measured = [figure for figure in QUALITY if all(figure in case.figures for case in known)]
    quality = next((figure for figure in QUALITY if figure in wanted), [*measured, wanted[0]][0])
    figures = list(dict.fromkeys([*wanted, quality]))
    predictor = Predictor.of(known, figures)
    suggestions = []
    for case, overrides in candidates(known):
        predicted = predictor.predict({**case.settings, **overrides}, case.stages)
        suggestions.append(_suggestion(case, overrides, predicted, budget, known))
    order = {"surely": 0, "likely": 1, "not": 2}
    sign = 1.0 if FIGURES[quality][0] else -1.0
    ranked = sorted(suggestions, key=lambda entry: (order[entry.standing], sign * entry.predicted[quality].value))
    return ranked[:NUM_SUGGESTED]


@dataclass(frozen=True)
class Predictor:
    """Figures of models from those of others, on a logarithmic scale, by the settings that vary."""

    encoder: Encoder
    regressors: Mapping[str, Regressor]

    @staticmethod
    def of(cases: Sequence[Case], figures: Sequence[str]) -> Predictor:
        """Return a predictor of figures that all the cases have."""
        encoder = Encoder.of(cases)
        design = np.array([encoder.row(case.settings, case.stages) for case in cases])
        logs = {figure: np.log([max(case.figures[figure], 1e-9) for case in cases]) for figure in figures}
        return Predictor(encoder, {figure: Regressor(design, targets) for figure, targets in logs.items()})

    def predict(self, settings: Mapping[str, Any], stages: Mapping[str, str]) -> dict[str, Estimate]:
        """Return each figure with its jackknife+ interval at 90%."""
        row = self.encoder.row(settings, stages)
        return {figure: _exp(regressor.predict(row, LEVEL)) for figure, regressor in self.regressors.items()}


def candidates(cases: Sequence[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Yield each case as it was, and with one number changed. To what other runs of its recipe had, or to the middle of two of these."""
    seen: set[tuple[str, str, tuple[tuple[str, Any], ...]]] = set()
    for case in cases:
        key = (case.recipe, case.model, tuple(sorted(case.settings.items(), key=str)))
        if key in seen:
            continue
        seen.add(key)
        yield case, {}
        alike = [other for other in cases if (other.recipe, other.model) == (case.recipe, case.model)]
        for path, value in case.settings.items():
            others = {other.settings.get(path) for other in alike}
            numbers = sorted(
                other for other in others if isinstance(other, int | float) and not isinstance(other, bool)
            )
            if len(numbers) > 1 and isinstance(value, int | float) and not isinstance(value, bool):
                for tried in _between(numbers):
                    changed = (case.recipe, case.model, tuple(sorted({**case.settings, path: tried}.items(), key=str)))
                    if tried != value and changed not in seen:
                        seen.add(changed)
                        yield case, {path: tried}


def _between(numbers: Sequence[float]) -> list[float]:
    """Return the numbers and the middles of neighbours; whole ones stay whole."""
    is_whole = all(isinstance(number, int) for number in numbers)
    middles = [(low + high) / 2 for low, high in pairwise(numbers)]
    if is_whole:
        middles = [int(middle) for middle in middles if middle == int(middle)]
    return sorted({*numbers, *middles})


@dataclass(frozen=True)
class Encoder:
    """Settings as a row of numbers. Those that vary, numbers as they are, words as one column each, stages by whether they are there."""

    numbers: tuple[str, ...]
    words: tuple[tuple[str, str], ...]
    stages: tuple[str, ...]

    @staticmethod
    def of(cases: Sequence[Case]) -> Encoder:
        """Return the encoder of some cases. Settings go by stage and path, so that nodes of other names compare."""
        tables = [_by_stage(case.settings, case.stages) for case in cases]
        values = {path: {table.get(path) for table in tables} for table in tables for path in table}
        varying = {path: some for path, some in values.items() if len(some) > 1}
        numbers = [path for path, some in varying.items() if all(value is None or _is_number(value) for value in some)]
        words = [
            (path, str(value))
            for path, some in varying.items()
            if path not in numbers
            for value in sorted(map(str, some))
        ]
        names = {stage for case in cases for stage in case.stages.values()}
        varied = [name for name in sorted(names) if len({name in case.stages.values() for case in cases}) > 1]
        return Encoder(tuple(sorted(numbers)), tuple(words), tuple(varied))

    def row(self, settings: Mapping[str, Any], stages: Mapping[str, str]) -> np.ndarray:
        """Return the row of one case; what it does not have is 0."""
        table = _by_stage(settings, stages)
        numbers = [float(table.get(path) or 0.0) for path in self.numbers]
        words = [float(str(table.get(path)) == value) for path, value in self.words]
        return np.array([*numbers, *words, *(float(name in stages.values()) for name in self.stages)])


def _by_stage(settings: Mapping[str, Any], stages: Mapping[str, str]) -> dict[str, Any]:
    """Return settings by stage and path; numbers of several nodes of one stage are added."""
    table: dict[str, Any] = {}
    for path, value in settings.items():
        node, _, rest = path.partition(".config.")
        name = f"{stages[node]}.{rest}"
        is_sum = name in table and _is_number(value) and _is_number(table[name])
        table[name] = table[name] + value if is_sum else value
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _exp(estimate: Estimate) -> Estimate:
    return Estimate(*(math.exp(value) for value in (estimate.value, estimate.low, min(estimate.high, 700.0))))


def _suggestion(
    case: Case,
    overrides: Mapping[str, Any],
    predicted: Mapping[str, Estimate],
    budget: Sequence[Limit],
    known: Sequence[Case],
) -> Suggestion:
    ends = {
        limit.figure: predicted[limit.figure].high if limit.is_upper else predicted[limit.figure].low
        for limit in budget
    }
    is_sure = all(limit.holds(ends[limit.figure]) for limit in budget)
    misses = [limit.figure for limit in budget if not limit.holds(predicted[limit.figure].value)]
    standing = "surely" if is_sure else "not" if misses else "likely"
    alike = sum((other.recipe, other.model) == (case.recipe, case.model) for other in known)
    made = "as it was run" if not overrides else "a neighbour of what was run"
    why = f"{made} in {case.run}; {alike} of {len(known)} measured models are of this recipe"
    why += f"; past {', '.join(misses)}" if misses else ""
    return Suggestion(
        case.recipe,
        case.model,
        overrides,
        {**case.settings, **overrides},
        predicted,
        standing,
        why + (f"; past {', '.join(misses)}" if misses else ""),
    )
