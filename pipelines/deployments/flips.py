"""What a candidate answers otherwise than the champion. Of the tasks that both were measured on, and of the check of their behaviour."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attar.registry.artifacts.handles import FLIPS, Artifact
from attar.registry.artifacts.store import Store
from attar.registry.release.versions import Version
from attar.stages.compare.behaviour.flips import RESULT as BEHAVIOUR
from attar.stages.evaluate.answers.kept_answers import flipped_answers

# Texts that the form shows of each side; the table has all.
NUM_SHOWN, MAX_CHARS = 3, 160
COLUMNS = ("task", "flip", "question", "reference", "champion", "candidate")


@dataclass(frozen=True)
class VersionFlips:
    """Rows of COLUMNS, lost ones first; `num_questions`: what both versions were asked. `why`: what could not be compared."""

    rows: Sequence[Mapping[str, str]]
    num_questions: int
    why: str = ""

    def __str__(self) -> str:
        lost = sum(row["flip"] == "lost" for row in self.rows)
        counted = f"{lost} answers lost, {len(self.rows) - lost} won against the champion, of {self.num_questions}"
        return "; ".join(filter(None, [counted if self.num_questions or self.rows else "", self.why]))

    def as_markdown(self) -> list[str]:
        """Return the count and the first texts as lines for a form."""
        lines = [f"**{self}**" if str(self) else "", ""]
        for flip in ("lost", "won"):
            for row in [row for row in self.rows if row["flip"] == flip][:NUM_SHOWN]:
                question, champion, candidate = (_short(row[name]) for name in ("question", "champion", "candidate"))
                lines.append(f"- {flip}, {row['task']}: {question} Champion: {champion} Candidate: {candidate}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {"rows": [dict(row) for row in self.rows], "num_questions": self.num_questions, "why": self.why}


def version_flips(candidate: Version, champion: Version | None, store: Store) -> VersionFlips:
    """Return what a candidate lost and won against the champion, as far as the store has the evaluations of both."""
    if champion is None or champion.number == candidate.number:
        return VersionFlips([], 0)
    rows, num_questions, whys = [], 0, []
    first, second = (_stored(version, "evaluation", store) for version in (champion, candidate))
    if first is not None and second is not None:
        flips, num_questions = flipped_answers(first, second)
        rows = [_row(asdict(flip)) for flip in flips]
        if not num_questions:
            whys.append("no question was put to both: no answer can be compared")
    else:
        whys.append("an evaluation is gone from this machine's store: no answer can be compared")
    before, after = (_stored(version, "behaviour", store) for version in (champion, candidate))
    if before is not None and after is not None:
        rows += _behaviour_rows(before, after)
    return VersionFlips(sorted(rows, key=lambda row: row["flip"]), num_questions, "; ".join(whys))


def _stored(version: Version, name: str, store: Store) -> Artifact | None:
    key = version.keys.get(name, "")
    stage = {"evaluation": "evaluate", "behaviour": "check_behaviour"}[name]
    return store.load(stage, key) if key and store.holds(stage, key) else None


def _behaviour_rows(champion: Artifact, candidate: Artifact) -> list[dict[str, str]]:
    """Return the cases that the two handle otherwise, where the same cases were put to both.

    Each check tells where its version differs from the original; what it does not tell of is as the original has it.
    """
    if _cases(champion) != _cases(candidate):
        return []
    before, after = (
        {(flip["group"], flip["question"]): flip for flip in _flips(side)} for side in (champion, candidate)
    )
    changed = [(flip, flip["flip"] == "lost", True) for case, flip in after.items() if case not in before]
    changed += [(flip, flip["flip"] == "won", False) for case, flip in before.items() if case not in after]
    rows = []
    for flip, is_lost, is_candidates in changed:
        own, original = flip["student"], f"as the original: {flip['original']}"
        champions, candidates = (original, own) if is_candidates else (own, original)
        rows.append(
            {
                "task": f"behaviour: {flip['group']}",
                "flip": "lost" if is_lost else "won",
                "question": flip["question"],
                "reference": flip["reference"],
                "champion": champions,
                "candidate": candidates,
            }
        )
    return rows


def _cases(check: Artifact) -> tuple[str, dict[str, int]]:
    """Return against which original a check was made, and of how many cases by group."""
    groups = json.loads((check.path / BEHAVIOUR).read_text())["groups"]
    return str(check.facts["original_fingerprint"]), {name: group["num_cases"] for name, group in groups.items()}


def _flips(check: Artifact) -> list[dict[str, str]]:
    path = check.path / FLIPS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _row(flip: Mapping[str, str]) -> dict[str, str]:
    renamed = {**flip, "champion": flip["first"], "candidate": flip["second"]}
    return {name: renamed[name] for name in COLUMNS}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARS else f"{line[: MAX_CHARS - 3]}..."
