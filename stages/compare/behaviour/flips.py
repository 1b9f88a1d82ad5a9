"""What changed between original and student, group by group: how many flips either way, with an interval, and their texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attar.compressors.measure.newcombe import Cells, PairedDrop
from attar.registry.artifacts.handles import FLIPS
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.compare.behaviour.cases import ENDING, VERBATIM
from attar.stages.compare.behaviour.outcomes import Outcome

RESULT = "behaviour.json"


@dataclass(frozen=True)
class Flip:
    """A case that one of the two handles as it should and the other does not, with both texts. `flip`: lost or won by the student."""

    group: str
    flip: str
    question: str
    reference: str
    original: str
    student: str
    why: str


@dataclass(frozen=True)
class GroupDrop:
    """A group: shares that behave as they should, flips, and the drop with its one-sided ends."""

    num_cases: int
    original: float
    student: float
    lost: int
    won: int
    drop: float
    low: float
    high: float

    @staticmethod
    def of(student: Sequence[Outcome], original: Sequence[Outcome], level: float) -> GroupDrop:
        """Return the drop over pairs of outcomes, its ends at a one-sided level."""
        sides = [[outcome.passed for outcome in side] for side in (student, original)]
        cells = Cells.of(*sides)
        known = PairedDrop((cells,))
        shares = [sum(side) / len(side) for side in sides]
        ends = (known.bound(level, is_upper=False), known.bound(level, is_upper=True))
        lost, won = int(cells.original_only), int(cells.candidate_only)
        return GroupDrop(len(student), shares[1], shares[0], lost, won, known.value, *ends)

    def __str__(self) -> str:
        return (
            f"{self.student:.1%} as they should, original {self.original:.1%}; {self.lost} lost, {self.won} won of "
            f"{self.num_cases}: drop {self.drop:.3f} [{self.low:.3g}, {self.high:.3g}]"
        )


def flips_of(
    groups: Mapping[str, Sequence[Row]],
    training: Sequence[Row],
    student: Mapping[str, Sequence[Outcome]],
    original: Mapping[str, Sequence[Outcome]],
) -> list[Flip]:
    """Return every flip, group by group, lost ones first."""
    written = [row for rows in groups.values() for row in rows if not row.choices]
    cases = {**groups, ENDING: written, VERBATIM: training}
    flips = []
    for name, outcomes in student.items():
        for row, own, other in zip(cases[name], outcomes, original[name], strict=True):
            if own.passed != other.passed:
                is_lost = other.passed > own.passed
                reference = row.choices[row.answer_index] if row.choices else row.reference or row.answer or row.text
                why = own.why if is_lost else other.why
                question = row.question or "(training text)"
                flips.append(Flip(name, "lost" if is_lost else "won", question, reference, other.text, own.text, why))
    return sorted(flips, key=lambda flip: (flip.group, flip.flip))


def write_result(
    folder: Path,
    drops: Mapping[str, GroupDrop],
    student: Mapping[str, Sequence[Outcome]],
    original: Mapping[str, Sequence[Outcome]],
    flips: Sequence[Flip],
    facts: Mapping[str, Any],
) -> None:
    """Write `behaviour.json`, with the outcomes in pairs, and the flips' texts a line each."""
    outcomes = {
        name: {"student": [own.passed for own in student[name]], "original": [other.passed for other in original[name]]}
        for name in student
    }
    groups = {name: asdict(drop) for name, drop in drops.items()}
    (folder / RESULT).write_text(json.dumps({**facts, "groups": groups, "outcomes": outcomes}, indent=1))
    lines = [json.dumps(asdict(flip), ensure_ascii=False) for flip in flips]
    (folder / FLIPS).write_text("".join(f"{line}\n" for line in lines))
