"""Questions asked in random blocks until the verdict on a candidate is sure. Fewer than all of them, at the same level of error."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.compressors.measure.betting import Wagered
from attar.registry.artifacts.fingerprint import digest
from attar.registry.release.interval_gate import PASSED, TOO_FEW, Judged, judge_claims, whole_verdict
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.config import StopConfig
from attar.stages.evaluate.evidence import check_known, wagered
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.question_pairs import question_ids
from attar.stages.runtime.progress import bar, note

# Returns, by task, which of the questions are right.
Answer = Callable[[Mapping[str, Sequence[Row]]], dict[str, list[float]]]
GIVEN_UP = "given up: more questions would hardly decide"
ALL_ASKED = "all questions were asked"


@dataclass
class Blocks:
    """Questions of each task in a random order, with the original's answers to them, and the candidate's so far.

    `order`: the task of each question as it is asked. Of the first `num_drawn` every task had equal chances, so that tasks count alike;
    behind them stands what is left once a task is out of questions.
    """

    rows: dict[str, list[Row]]
    ids: dict[str, list[str]]
    original: dict[str, list[float]]
    order: list[str]
    num_drawn: int
    right: dict[str, list[float]] = field(default_factory=dict)

    @staticmethod
    def of(rows: Mapping[str, Sequence[Row]], baseline: Mapping[str, Any], seed: str) -> Blocks:
        """Return the questions in the order that a seed gives. Raises ValueError where the original was not asked one of them."""
        draw = random.Random(seed)
        order, num_drawn = _drawn_tasks({name: len(some) for name, some in rows.items()}, draw)
        blocks = Blocks({}, {}, {}, order, num_drawn, {name: [] for name in rows})
        for name, some in rows.items():
            ids, right = (baseline.get(key, {}).get(name, []) for key in ("question_ids", "right"))
            known = dict(zip(ids, right, strict=False))
            pairs = list(zip(question_ids(some), some, strict=True))
            if missing := sum(key not in known for key, _ in pairs):
                raise ValueError(
                    f"baseline was not asked {missing} of the {len(pairs)} questions of task {name!r}; "
                    "evaluate the original on the same data, without stop"
                )
            draw.shuffle(pairs)
            blocks.rows[name], blocks.ids[name] = [row for _, row in pairs], [key for key, _ in pairs]
            blocks.original[name] = [known[key] for key, _ in pairs]
        return blocks

    @property
    def num_questions(self) -> int:
        """All of them."""
        return len(self.order)

    @property
    def num_answered(self) -> int:
        """Those that the candidate answered."""
        return sum(map(len, self.right.values()))

    def next_block(self, size: int) -> dict[str, list[Row]]:
        """Return the next `size` questions that were not asked yet, by task."""
        counts = Counter(self.order[self.num_answered : self.num_answered + size])
        starts = {name: len(self.right[name]) for name in counts}
        return {name: self.rows[name][starts[name] : starts[name] + count] for name, count in counts.items()}

    def evidence(self, check: GateCheck) -> Wagered:
        """Return what the answers so far say of a check."""
        candidate = {"right": self.right, "stopping": self.drawn()}
        return wagered(check, candidate, {name: some[: len(self.right[name])] for name, some in self.original.items()})

    def drawn(self) -> dict[str, Any]:
        """Return the tasks of the questions that were asked, in order. And how many of these were drawn with equal chances."""
        order = self.order[: self.num_answered]
        return {"order": order, "num_drawn": min(self.num_drawn, len(order))}


def _drawn_tasks(counts: Mapping[str, int], draw: random.Random) -> tuple[list[str], int]:
    """Return a task a question: drawn with equal chances until one that is out of questions is drawn, then what is left, shuffled."""
    left, order = dict(counts), []
    while left[name := draw.choice(list(counts))]:
        left[name] -= 1
        order.append(name)
    rest = [name for name, count in left.items() for _ in range(count)]
    draw.shuffle(rest)
    return order + rest, len(order)


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
        **blocks.drawn(),
    }


def order_seed(stop: StopConfig, fingerprint: str) -> str:
    """Return the seed of the questions' order: each candidate gets another, so that no few questions decide every night."""
    return digest([stop.seed, fingerprint])
