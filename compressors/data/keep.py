"""The keep-or-fall-back rule: a rewrite that passes its checks replaces the reference answer, else the reference stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from attar.compressors.data.verifiers.catalogue import BannedPhrases, Verifier

REWRITTEN = "rewritten"
KEPT_PREFIX = "kept: "


@dataclass(frozen=True)
class Verdict:
    """The answer to train on, who wrote it, and why: `rewritten`, or `kept: KIND (detail)` with a kind of `OBJECTIONS`."""

    answer: str
    source: Literal["rewrite", "reference"]
    reason: str


def keep_or_fall_back(
    rewrite: str, reference: str, choices: Sequence[str], verifier: Verifier, banned: BannedPhrases, is_finished: bool
) -> Verdict:
    """Return the rewrite when it ended by itself, says nothing banned and agrees with the reference; else the reference.

    A row is never dropped, so the data set keeps its size and its questions. https://arxiv.org/abs/2410.09982
    """
    if not is_finished:
        return Verdict(reference, "reference", f"{KEPT_PREFIX}unfinished (cut at the length limit)")
    reason = banned(rewrite, reference, choices) or verifier(rewrite, reference, choices)
    if reason is not None:
        return Verdict(reference, "reference", KEPT_PREFIX + reason)
    return Verdict(rewrite.strip(), "rewrite", REWRITTEN)


def reason_kind(reason: str) -> str:
    """Return a reason without its detail: `kept: wrong answer (number 5 is not 6)` becomes `kept: wrong answer`."""
    return reason.partition(" (")[0]
