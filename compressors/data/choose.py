"""Choose among several rewrites of one answer, and say how hard the question was for the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from attar.compressors.data.keep import Verdict, keep_or_fall_back
from attar.compressors.data.verifiers.catalogue import BannedPhrases, Value, Verifier


@dataclass(frozen=True)
class Candidate:
    """One rewrite: whether it ended by itself, and its mean log-probability a token in nats (higher is likelier), where known."""

    text: str
    is_finished: bool
    mean_logprob_nats: float | None = None


@dataclass(frozen=True)
class Decision:
    """A verdict with its candidate. `pass_share`: candidates that ended and pass the verifier, in [0, 1]."""

    verdict: Verdict
    chosen_index: int
    pass_rate: float


class Chooser(Protocol):
    """Returns the index of one candidate; its verdict is the row's. `values` are the answers that candidates came to, None for none."""

    def __call__(
        self, candidates: Sequence[Candidate], verdicts: Sequence[Verdict], values: Sequence[Value | None]
    ) -> int: ...


@dataclass(frozen=True)
class BestOf:
    """Of the rewrites that pass, the likeliest under the original model; one right answer among many wrong ones is enough."""

    def __call__(
        self, candidates: Sequence[Candidate], verdicts: Sequence[Verdict], values: Sequence[Value | None]
    ) -> int:
        return _best(range(len(candidates)), candidates, verdicts)


@dataclass(frozen=True)
class Majority:
    """The answer that most finished rewrites came to, by its likeliest rewrite. The row falls back when that answer is wrong.

    Stricter than `BestOf`: a right answer that the model rarely gives is not its own. Rewrites without a value (an open question,
    no number) do not vote; where none votes it is `BestOf`. Self-consistency: https://arxiv.org/abs/2203.11171
    """

    def __call__(
        self, candidates: Sequence[Candidate], verdicts: Sequence[Verdict], values: Sequence[Value | None]
    ) -> int:
        voters = [i for i, candidate in enumerate(candidates) if candidate.is_finished and values[i] is not None]
        if not voters:
            return _best(range(len(candidates)), candidates, verdicts)
        votes = Counter(values[i] for i in voters)
        # a tie goes to the answer with the likelier rewrite
        winner = max(
            votes, key=lambda value: (votes[value], max(_logprob(candidates[i]) for i in voters if values[i] == value))
        )
        return _best([i for i in voters if values[i] == winner], candidates, verdicts)


CHOOSERS: dict[str, type[Chooser]] = {"best_of": BestOf, "majority": Majority}


def decide(
    candidates: Sequence[Candidate],
    reference: str,
    choices: Sequence[str],
    verifier: Verifier,
    banned: BannedPhrases,
    chooser: Chooser,
) -> Decision:
    """Return which candidate stands for the row, whether it is kept or the reference stays, and the pass rate.

    pass_rate = (candidates that ended by themselves and pass the verifier) / (candidates)
    """
    verdicts = [
        keep_or_fall_back(candidate.text, reference, choices, verifier, banned, candidate.is_finished)
        for candidate in candidates
    ]
    values = [verifier.value(candidate.text, choices) for candidate in candidates]
    num_passed = sum(
        candidate.is_finished and verifier(candidate.text, reference, choices) is None for candidate in candidates
    )
    index = chooser(candidates, verdicts, values)
    return Decision(verdicts[index], index, num_passed / len(candidates))


def _best(indices: Sequence[int], candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> int:
    """Return the likeliest candidate that is kept, else the likeliest; the first of equals."""
    return max(indices, key=lambda i: (verdicts[i].source == "rewrite", _logprob(candidates[i]), -i))


def _logprob(candidate: Candidate) -> float:
    return 0.0 if candidate.mean_logprob_nats is None else candidate.mean_logprob_nats
