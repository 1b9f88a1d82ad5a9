"""Stage `choose_teacher`: of several teachers' answers take those whose student did best in a trial, whatever the teachers score themselves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.progress import metric, note


class ChooseTeacherConfig(StageConfig):
    """Nothing to choose: the trial students' held-out quality decides, the first of equals wins."""


@dataclass(frozen=True, kw_only=True)
class ChooseTeacherInputs:
    """Each teacher's answers, and in the same order the student that a short training on them made, with `stop_on: quality`."""

    data: tuple[DatasetArtifact, ...]
    trials: tuple[AdapterArtifact, ...]


def _forecast(config: ChooseTeacherConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    num_data, num_trials = len(inputs["data"]), len(inputs["trials"])
    if num_data != num_trials:
        raise ValueError(
            f"{num_data} data sets and {num_trials} trials; accepted: one trial a data set, in the same order"
        )
    return Forecast({})


@stage("choose_teacher", version=1, forecast=_forecast, is_light=True)
def choose_teacher(config: ChooseTeacherConfig, inputs: ChooseTeacherInputs, workdir: Path) -> DatasetArtifact:
    """Return the data set whose trial student answers most held-out questions right. Raises ValueError for a trial without that number.

    https://arxiv.org/abs/2508.09883
    """
    scores = []
    for index, trial in enumerate(inputs.trials):
        if trial.facts.heldout_quality is None:
            raise ValueError(f"trial {index + 1} has no held-out quality; train it with stop_on: quality")
        scores.append(trial.facts.heldout_quality)
        metric(f"quality_of_student_{index + 1}", scores[-1])
    best = scores.index(max(scores))
    note(
        f"teacher {best + 1} of {len(scores)}: its student answers {scores[best]:.3f} right, the others {sorted(scores)[:-1]}"
    )
    counts = [trial.facts.num_quality_rows or 0 for trial in inputs.trials]
    doubt = chance(scores, best, counts)
    if doubt:
        note(doubt)
    chosen, content = inputs.data[best], workdir / "content"
    shutil.copytree(chosen.path, content, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORDS_FOLDER))
    write_card(content, read_rows(content / "rows.jsonl"), name=chosen.facts.name or "chosen")
    return DatasetArtifact.at(content, chosen.facts)


def chance(scores: Sequence[float], best: int, counts: Sequence[int]) -> str:
    """Return a warning where the best two may differ by chance. Chance: less than two standard errors of a difference of shares."""
    others = [index for index in range(len(scores)) if index != best]
    if not others or not min(counts):
        return ""
    second = max(others, key=lambda index: scores[index])
    spread = sum(scores[index] * (1.0 - scores[index]) / counts[index] for index in (best, second))
    if scores[best] - scores[second] >= 2.0 * spread**0.5 > 0.0:
        return ""
    return (
        f"warning: {scores[best]:.3f} and {scores[second]:.3f} of {counts[best]} and {counts[second]} questions lie within chance: the choice "
        "says little; more rows for choices (choose_fraction in ingest_data) say more"
    )
