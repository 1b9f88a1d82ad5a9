"""`attar suggest`: the next recipe under a budget, from what past runs measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from attar.pipelines.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from attar.pipelines.suggest.planner import Suggestion
    from attar.registry.tracking.run_record import RunRecord

out = Console(soft_wrap=True)


def suggest(
    budget: Annotated[
        str, typer.Option("--budget", metavar="LIMITS", help="Such as `bytes<=250MB, kl<=0.25, minutes<=60`.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Suggest three recipes under a budget, their figures predicted with 90% intervals from past runs."""
    from attar.pipelines.suggest.budget import read_budget
    from attar.pipelines.suggest.evidence import cases_of
    from attar.pipelines.suggest.planner import suggest as suggested
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.artifacts.store import Store
    from attar.registry.tracking.run_record import run_records

    home = attar_home()
    limits = read_budget(budget)
    records = run_records(home)
    suggestions = suggested(cases_of(records, Store(home)), limits)
    if as_json:
        print_json([{**asdict(entry), "command": entry.command} for entry in suggestions])
        return
    words = "surely: the whole interval keeps the budget; likely: its middle does"
    print_table([_row(entry) for entry in suggestions], "\n".join(filter(None, [words, _calibration(records)])))
    for entry in suggestions:
        out.print(f"{entry.command}\n  {entry.why}", markup=False, highlight=False)


def _calibration(records: Sequence[RunRecord]) -> str:
    from attar.pipelines.suggest.kept_predictions import calibration, kept_predictions

    return calibration(kept_predictions(records))


def _row(entry: Suggestion) -> dict[str, Any]:
    figures = {
        figure: f"{_shown(known.value)} [{_shown(known.low)}, {_shown(known.high)}]"
        for figure, known in entry.predicted.items()
    }
    return {"recipe": entry.recipe, "keeps the budget": entry.standing, **figures}


def _shown(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.3g}"
