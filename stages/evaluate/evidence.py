"""The evidence for a gate's checks in a candidate's evaluation and its baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attar.compressors.catalogue import did_you_mean
from attar.compressors.measure.betting import Wagered
from attar.compressors.measure.bootstrap import PairedRetention, mean_over
from attar.compressors.measure.evidence import Exact
from attar.compressors.measure.newcombe import Cells, PairedDrop
from attar.compressors.measure.paired import share
from attar.compressors.measure.rounds import PairedRounds
from attar.registry.release.interval_gate import Claim, Evidence
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.images.drawn import FIGURE_OF, drawn_claim
from attar.stages.evaluate.question_pairs import all_pairs

# The rounds of a time in an evaluation, and the numbers of it that have no spread.
ROUNDS = {
    "prefill_latency_ratio": "prefill_seconds_rounds",
    "decode_latency_ratio": "decode_seconds_per_token_rounds",
}
# Of a served model, of each number of clients.
SERVED_ROUNDS = {
    "served_throughput_ratio": "tokens_per_second_rounds",
    "served_latency_ratio": "request_seconds_rounds",
}
EXACT = {
    "memory_ratio": "memory_bytes",
    "bytes_ratio": "disk_bytes",
    "parameters_ratio": "num_parameters",
    "forwards_ratio": "num_forwards",
}


def check_known(data: str, known: Sequence[str], where: str) -> None:
    """Raise ValueError for a task or text that was not measured."""
    if data and data not in known:
        hint = did_you_mean(data, known) if known else " Nothing was."
        raise ValueError(f"{where}: {data!r} was not measured.{hint}")


def evaluation_claim(check: GateCheck, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Claim:
    """Return a check with its evidence in two evaluations. Raises ValueError where what it needs was not measured."""
    if check.measure in ("accuracy_drop", "accuracy_retention"):
        return _accuracy(check, candidate, baseline)
    if check.measure in ROUNDS:
        return _rounds(check, candidate, baseline)
    if check.measure in SERVED_ROUNDS:
        return _served(check, candidate, baseline)
    if check.measure in FIGURE_OF:
        return drawn_claim(check, candidate, baseline)
    if check.measure in EXACT:
        return check.claim(_exact(check, candidate, baseline))
    return _perplexity(check, candidate, baseline)


def _accuracy(check: GateCheck, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Claim:
    names = sorted(candidate.get("right", {}).keys() & baseline.get("right", {}).keys())
    check_known(check.data, names, f"gate check {check.measure}")
    if not names:
        raise ValueError(f"gate check {check.measure}: no task was measured; give evaluate the input tasks")
    chosen = [check.data] if check.data else names
    pairs = list(all_pairs(candidate, baseline, chosen))
    is_ratio = check.measure == "accuracy_retention"
    if is_ratio and (why := _at_chance(chosen, baseline)):
        return check.claim(None, why)
    # an interval for a fixed number of questions is none once the answers decide how many
    if candidate.get("stopping") is not None:
        return check.claim(
            wagered(check, candidate, {name: other for name, (_, other) in zip(chosen, pairs, strict=True)})
        )
    cells = tuple(Cells.of(*pair) for pair in pairs)
    return check.claim(PairedRetention(cells) if is_ratio else PairedDrop(cells))


def _at_chance(names: Sequence[str], baseline: Mapping[str, Any]) -> str:
    """Say which task is no measure of what was kept, as the original answers it no better than guessing does; empty where none is."""
    for name in names:
        accuracy, guessed = share(baseline["right"][name]), baseline.get("guessed", {}).get(name, 0.0)
        if accuracy.low <= guessed:
            return (
                f"{name} is no measure: the original answers {accuracy.value:.0%} of {len(baseline['right'][name])} questions right, "
                f"at least {accuracy.low:.0%}, and guessing {guessed:.0%}; check a task that it knows"
            )
    return ""


def wagered(check: GateCheck, candidate: Mapping[str, Any], original: Mapping[str, Sequence[float]]) -> Wagered:
    """Return the evidence of questions asked in blocks. Of a task all its answers, of all tasks those drawn with equal chances, in order.

    `original`: its answers to the candidate's questions, by task.
    """
    right, stopping = candidate["right"], candidate["stopping"]
    order = [check.data] * len(right[check.data]) if check.data else stopping["order"][: stopping["num_drawn"]]
    answers = {name: iter(zip(right[name], original[name], strict=True)) for name in {*order}}
    pairs = [next(answers[name]) for name in order]
    is_ratio = check.measure == "accuracy_retention"
    return Wagered.of([first for first, _ in pairs], [second for _, second in pairs], is_ratio=is_ratio)


def _exact(check: GateCheck, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Evidence:
    name = EXACT[check.measure]
    for who, evaluation in (("candidate", candidate), ("baseline", baseline)):
        if name not in evaluation:
            raise ValueError(
                f"gate check {check.measure}: the {who}'s evaluation did not measure it; evaluate it again"
            )
    return Exact(candidate[name] / baseline[name])


def _rounds(check: GateCheck, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Claim:
    name, own = ROUNDS[check.measure], candidate.get("latency") or {}
    beside = own.get("beside", {})
    if name not in own:
        raise ValueError(f"gate check {check.measure}: the candidate's evaluation keeps no rounds; evaluate it again")
    if beside.get("model_fingerprint") != baseline.get("model_fingerprint"):
        return check.claim(None, "measured apart from the original; give evaluate the input beside")
    return check.claim(PairedRounds.of(own[name], beside[name]))


def _served(check: GateCheck, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Claim:
    """Return the ratio of served figures, measured in turns; without a number of clients the geometric mean over all numbers."""
    own = candidate.get("served") or {}
    if not own:
        raise ValueError(f"gate check {check.measure}: the candidate was not served; set evaluate.timing.served")
    check_known(check.data, list(own["clients"]), f"gate check {check.measure}")
    beside = own.get("beside") or {}
    if beside.get("model_fingerprint") != baseline.get("model_fingerprint"):
        return check.claim(None, "served apart from the original; give evaluate the input beside")
    name, chosen = SERVED_ROUNDS[check.measure], [check.data] if check.data else list(own["clients"])
    first, second = (
        [
            float(np.prod(some) ** (1 / len(chosen)))
            for some in zip(*(side["clients"][key][name] for key in chosen), strict=True)
        ]
        for side in (own, beside)
    )
    return check.claim(PairedRounds.of(first, second))


def _perplexity(check: GateCheck, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Claim:
    sides = [evaluation.get("text_pieces") or [] for evaluation in (candidate, baseline)]
    if not all(sides):
        raise ValueError(f"gate check {check.measure}: no text was measured; give evaluate the input text")
    if candidate.get("text") != baseline.get("text"):
        return check.claim(None, "measured on another text than the original's")
    counts = [count for _, count in sides[1]]
    if counts != [count for _, count in sides[0]]:
        return check.claim(None, "the two cut the text otherwise; limit loss_ratio of compare instead")
    rises = [first - second for (first, _), (second, _) in zip(*sides, strict=True)]
    return check.claim(mean_over(rises, counts, "pieces of text", np.exp))
