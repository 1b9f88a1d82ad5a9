"""Two runs, or two registered versions, figure by figure: both values, and second / first with its interval."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from attar.one_line import AttarError, told_in_one_line
from attar.pipelines.recipe.notebook_table import html_table, text_table
from attar.pipelines.report.difference import figure_differences
from attar.runs import Run, load_run

# NAME@ALIAS, NAME/VERSION and models:/... are registered versions; a run's id has none of these marks.
VERSION = re.compile(r"models:/|.+[@/]")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Rows of figures: of runs {model, figure, first, second, second / first, on}, of versions {what, first, second, ratio}."""

    first: str
    second: str
    rows: tuple[dict[str, Any], ...]

    def __repr__(self) -> str:
        return text_table(self.rows, self._caption, self._note)

    def _repr_html_(self) -> str:
        return html_table(self.rows, self._caption, self._note)

    @property
    def _caption(self) -> str:
        return f"first: {self.first}; second: {self.second}"

    @property
    def _note(self) -> str:
        return "In brackets: 95% intervals, of times the quartiles." if self.rows else "Nothing was measured in both."


@told_in_one_line
def compare(first: Run | str, second: Run | str) -> Comparison:
    """Compare two runs (or their ids, `latest` the newest), or two registered versions (NAME@ALIAS or NAME/VERSION).

    Models are matched by the name of their node. Raises AttarError where there is no such run or version.
    """
    if _is_version(first) != _is_version(second):
        raise AttarError(f"compare takes two runs or two registered versions, not {first!s} with {second!s}")
    if _is_version(first):
        return _compare_versions(str(first), str(second))
    runs = [load_run(run) if isinstance(run, str) else run for run in (first, second)]
    differences = figure_differences(*((run.record, run.store) for run in runs))
    return Comparison(runs[0].id, runs[1].id, tuple(difference.as_row() for difference in differences))


def _is_version(given: Run | str) -> bool:
    return isinstance(given, str) and VERSION.match(given) is not None


def _compare_versions(first: str, second: str) -> Comparison:
    # local: MLflow takes seconds to import
    from attar.registry.artifacts.environment import attar_home, configure_process, tracking_uri
    from attar.registry.release.versions import compare_versions, read_version
    from attar.registry.tracking.reach import reachable

    configure_process()
    with reachable(tracking_uri(attar_home())):  # which also lets MLflow try for seconds, not minutes
        versions = [read_version(name.removeprefix("models:/")) for name in (first, second)]
    return Comparison(str(versions[0]), str(versions[1]), tuple(compare_versions(*versions)))
