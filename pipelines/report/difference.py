"""What differs between two runs: fields of their recipes, what they made, and the figures that were measured, with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attar.pipelines.report.comparison import columns_of, evaluations
from attar.registry.artifacts.store import Store
from attar.registry.release.figures import HIGH, LOW
from attar.registry.release.gate import Ratio
from attar.registry.tracking.run_record import NodeRecord, RunRecord
from attar.stages.evaluate.paired_evaluations import paired_ratios

Recorded = tuple[RunRecord, Store]
# What stands in a table where a run has no such node or field.
ABSENT = "-"


@dataclass(frozen=True)
class FigureDifference:
    """One figure of one model in two runs. Both values, and second / first with its 95% interval where one can be told."""

    model: str
    figure: str
    first: float
    second: float
    first_interval: tuple[float, float] | None
    second_interval: tuple[float, float] | None
    ratio: Ratio

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return asdict(self)

    def as_row(self) -> dict[str, str]:
        """Return the difference as a row of a table."""
        return {
            "model": self.model,
            "figure": self.figure,
            "first": _known(self.first, self.first_interval),
            "second": _known(self.second, self.second_interval),
            "second / first": _told_ratio(self.ratio),
            "on": self.ratio.measured_on,
        }


@dataclass(frozen=True)
class RunDifference:
    """What differs between two runs. A figure that is the same is left out."""

    fields: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]
    figures: list[FigureDifference]

    @staticmethod
    def of(first: Recorded, second: Recorded) -> RunDifference:
        """Return the difference of two runs."""
        return RunDifference(
            list(_fields(first[0], second[0])),
            list(_artifacts(first[0], second[0])),
            [figure for figure in figure_differences(first, second) if figure.first != figure.second],
        )

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return {fields, artifacts, figures}, each a list of plain rows."""
        figures = [figure.as_dict() for figure in self.figures]
        return {"fields": self.fields, "artifacts": self.artifacts, "figures": figures}

    def tables(self) -> dict[str, list[dict[str, str]]]:
        """Return the same as rows of text, for a person."""
        figures = [figure.as_row() for figure in self.figures]
        return {"fields": shown_rows(self.fields), "artifacts": shown_rows(self.artifacts), "figures": figures}


def figure_differences(first: Recorded, second: Recorded) -> list[FigureDifference]:
    """Return every figure of every model that both runs measured, in pairs where both were asked the same."""
    before, after = evaluations(*first), evaluations(*second)
    return [
        figure
        for model, evaluation in after.items()
        if model in before
        for figure in _figures(model, before[model], evaluation)
    ]


def _figures(model: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[FigureDifference]:
    ratios = paired_ratios(after, before)
    for column in columns_of([before, after]):
        old, new = before["facts"].get(column.metric), after["facts"].get(column.metric)
        if column.is_count or old is None or new is None:
            continue
        quotient = Ratio(float(new) / float(old)) if old else Ratio(float("nan"), undecided="the first is 0")
        yield FigureDifference(
            model=model,
            figure=column.metric,
            first=float(old),
            second=float(new),
            first_interval=_interval(before["facts"], column.metric),
            second_interval=_interval(after["facts"], column.metric),
            ratio=ratios.get(column.metric, quotient),
        )


def _fields(first: RunRecord, second: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield what the recipes say differently: nodes that one run alone has, then stages, inputs and config fields."""
    for name in dict.fromkeys([*first.nodes, *second.nodes]):
        old, new = first.nodes.get(name), second.nodes.get(name)
        before, after = _figures_of(old), _figures_of(new)
        if not (old and new):  # the stage tells of a whole node
            yield {"node": name, "field": "stage", "first": before.get("stage"), "second": after.get("stage")}
            continue
        for field in dict.fromkeys([*before, *after]):
            if before.get(field) != after.get(field):
                yield {"node": name, "field": field, "first": before.get(field), "second": after.get(field)}


def _figures_of(node: NodeRecord | None) -> dict[str, Any]:
    """Return what the recipe says of a node, by dotted name."""
    if node is None:
        return {}
    inputs = {f"inputs.{slot}": names for slot, names in node.inputs.items()}
    return {"stage": node.stage, **inputs, **_flat("config", node.config)}


def _flat(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {name: inner for key, part in value.items() for name, inner in _flat(f"{path}.{key}", part).items()}


def _artifacts(first: RunRecord, second: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield the nodes of both runs whose artifacts differ: their content (fingerprint), or only the way to it (key)."""
    for name, old in first.nodes.items():
        new = second.nodes.get(name)
        if new is None or (old.key, old.fingerprint) == (new.key, new.fingerprint):
            continue
        is_same = bool(old.fingerprint) and old.fingerprint == new.fingerprint
        what = "same content" if is_same else "other content" if old.key and new.key else "not in both"
        yield {"node": name, "stage": new.stage, "first": old.key, "second": new.key, "what": what}


def shown_rows(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return rows of fields or artifacts as text: keys short, values as JSON."""
    return [{name: _shown(name, value) for name, value in row.items()} for row in rows]


def _shown(name: str, value: Any) -> str:
    if name not in ("first", "second"):
        return str(value)
    if value in (None, ""):
        return ABSENT
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] if len(text) == 64 and " " not in text else text


def _interval(facts: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    ends = [float(facts[metric + end]) for end in (LOW, HIGH) if metric + end in facts]
    return (ends[0], ends[1]) if len(ends) == 2 else None


def _known(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:,.4g}" + (f" [{interval[0]:,.4g}, {interval[1]:,.4g}]" if interval else "")


def _told_ratio(ratio: Ratio) -> str:
    if ratio.undecided:
        return f"not decided: {ratio.undecided}"
    ends = f" [{ratio.low:.3g}, {ratio.high:.3g}]" if ratio.low is not None and ratio.high is not None else ""
    return f"{ratio.value:.3f}x{ends}"
