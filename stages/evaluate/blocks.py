"""Questions asked in random blocks until the verdict on a candidate is sure. Fewer than all of them, at the same level of error."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.compressors.measure.betting import Wagered
from attar.registry.artifacts.fingerprint import digest
from attar.registry.release.interval_gate import PASSED, TOO_FEW, Judged, judge_claims, whole_verdict
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.config import StopConfig
from attar.stages.evaluate.evidence import check_known
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.question_pairs import question_ids
from attar.stages.runtime.progress import bar, note

# Returns, by task, which of the questions are right.
Answer = Callable[[Mapping[str, Sequence[Row]]], dict[str, list[float]]]
GIVEN_UP = "given up: more questions would hardly decide"
ALL_ASKED = "all questions were asked"


@dataclass
class Blocks:
    """Questions of each task in a random order, with the original's answers to them, and the candidate's so far."""

    rows: dict[str, list[Row]]
    ids: dict[str, list[str]]
    original: dict[str, list[float]]
    right: dict[str, list[float]] = field(default_factory=dict)

    @staticmethod
    def of(rows: Mapping[str, Sequence[Row]], baseline: Mapping[str, Any], seed: str) -> Blocks:
        """Return the questions in the order that a seed gives. Raises ValueError where the original was not asked one of them."""
        blocks = Blocks({}, {}, {}, {name: [] for name in rows})
        for name, some in rows.items():
            known = dict(
                zip(
                    baseline.get("question_ids", {}).get(name, []),
                    baseline.get("right", {}).get(name, []),
                    strict=False,
                )
            )
            pairs = list(zip(question_ids(some), some, strict=True))
            if missing := sum(name not in known for name, _ in pairs):
                raise ValueError(
                    f"baseline was not asked {missing} of the {len(pairs)} questions of task {name!r}; "
                    "evaluate the original on the same data, without stop"
                )
            random.Random(f"{seed} {name}").shuffle(pairs)
            blocks.rows[name], blocks.ids[name] = [row for _, row in pairs], [key for key, _ in pairs]
            blocks.original[name] = [known[key] for key, _ in pairs]
        return blocks

    @property
    def num_questions(self) -> int:
        """All of them."""
        return sum(map(len, self.rows.values()))

    @property
    def num_answered(self) -> int:
        """Those that the candidate answered."""
        return sum(map(len, self.right.values()))

    def next_block(self, size: int) -> dict[str, list[Row]]:
        """Return about `size` questions that were not asked yet. Of each task as many times more as it is larger than the smallest."""
        smallest = min(map(len, self.rows.values()))
        shares = {name: len(some) // smallest for name, some in self.rows.items()}
        num_steps = max(1, round(size / sum(shares.values())))
        starts = {name: len(right) for name, right in self.right.items()}
        block = {name: some[starts[name] : starts[name] + num_steps * shares[name]] for name, some in self.rows.items()}
        return {name: some for name, some in block.items() if some}

    def evidence(self, check: GateCheck) -> Wagered:
        """Return what the answers so far say of a check."""
        names = [check.data] if check.data else list(self.rows)
        pairs = [(self.right[name], self.original[name][: len(self.right[name])]) for name in names]
        return Wagered.of(pairs, is_ratio=check.measure == "accuracy_retention")


def ask_in_blocks(stop: StopConfig, blocks: Blocks, answer: Answer) -> dict[str, Any]:
    """Ask block after block until the verdict on the checks is sure. Return why it ended and what is known then.

    A verdict is sure once every check is passed or any failed, at the level over all checks; asking also ends where it is hopeless.
    """
    for check in stop.checks:
        check_known(check.data, sorted(blocks.rows), f"stop check {check.measure}")
    counter = bar("asking in blocks", blocks.num_questions, "questions")
    ended = ALL_ASKED
    judged: list[Judged] = []
    while block := blocks.next_block(stop.block_size):
        for name, right in answer(block).items():
            blocks.right[name] += right
        counter.advance(sum(map(len, block.values())))
        evidence = [blocks.evidence(check) for check in stop.checks]
        claims = [check.claim(known) for check, known in zip(stop.checks, evidence, strict=True)]
        judged = judge_claims(claims, stop.level)
        verdict = whole_verdict([check.verdict for check in judged])
        if verdict != TOO_FEW:
            ended = "surely passed" if verdict == PASSED else "surely failed"
            break
        undecided = zip(claims, evidence, judged, strict=True)
        if any(
            known.is_hopeless(claim.limit, is_upper=claim.is_lower_better)
            for claim, known, check in undecided
            if check.verdict == TOO_FEW
        ):
            ended = GIVEN_UP
            break
    note(f"{ended} after {blocks.num_answered} of {blocks.num_questions} questions: {'; '.join(map(str, judged))}")
    return {
        "ended": ended,
        "num_asked": blocks.num_answered,
        "num_questions": blocks.num_questions,
        "level": stop.level,
        "checks": [check.as_dict() for check in judged],
    }


def order_seed(stop: StopConfig, fingerprint: str) -> str:
    """Return the seed of the questions' order: each candidate gets another, so that no few questions decide every night."""
    return digest([stop.seed, fingerprint])
