"""Do the programs that people have write torch's own greedy tokens from what was written?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.compressors.models.decode import decode
from attar.compressors.models.runner import CausalRunner
from attar.stages.export.config import ExportConfig
from attar.stages.export.proof.runtimes import Runtime, RuntimeText, run_prompts
from attar.stages.runtime.progress import bar, metric, note

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class RuntimeProof:
    """What a runtime made of the file. The share of greedy tokens before the first that is not torch's, and seconds a token."""

    name: str
    token_agreement: float
    seconds_per_token: float


def prove_by_runtimes(
    config: ExportConfig,
    reference: CausalRunner,
    path: Path,
    prompts: Prompts,
    *,
    runtimes: Sequence[Runtime],
    ends: Collection[int],
    decides: bool,
) -> list[RuntimeProof]:
    """Let every installed runtime write, and compare with torch. Where its own sums are rounded too, `decides` is False: it is told alone.

    `ends`: tokens at which a runtime may stop.

    Raises ValueError for a runtime that does not open the file or, where it decides, writes another text.
    """
    counter = bar("running what was written", len(runtimes), "runtimes")
    expected = decode(reference, prompts, max_new_tokens=config.num_new_tokens, stop_ids=())
    proofs = []
    for runtime in runtimes:
        texts = run_prompts(runtime, path, prompts, config.num_new_tokens)
        counter.advance()
        if texts is None:
            note(f"{runtime.name} is not installed, so it did not run {path.name}: {runtime.install}")
            continue
        proof = _runtime_proof(runtime.name, texts, [text.token_ids for text in expected], ends)
        metric(f"token_agreement_{runtime.name}", proof.token_agreement)
        note(f"{runtime.name}: greedy agreement {proof.token_agreement:.1%}, {_speed(proof)} tokens a second")
        if decides and proof.token_agreement < config.min_token_agreement:
            raise ValueError(
                f"{runtime.name} writes another text than torch: greedy agreement {proof.token_agreement:.1%}; "
                f"accepted: >= {config.min_token_agreement:.0%}"
            )
        proofs.append(proof)
    return proofs


def _speed(proof: RuntimeProof) -> str:
    return f"{1 / proof.seconds_per_token:.1f}" if proof.seconds_per_token else "?"


def _runtime_proof(
    name: str, texts: Sequence[RuntimeText], expected: Sequence[Sequence[int]], ends: Collection[int]
) -> RuntimeProof:
    """Count the tokens before the first that differs. Where a runtime stops, the token that it did not write must be an end.

    What torch writes behind an end does not count.
    """
    num_agreed = num_compared = 0
    for text, ids in zip(texts, expected, strict=True):
        num_written = len(text.token_ids)
        num_same = next(
            (index for index, (a, b) in enumerate(zip(text.token_ids, ids, strict=False)) if a != b), num_written
        )
        has_stopped = num_same == num_written < len(ids)
        num_agreed += num_same + (has_stopped and ids[num_written] in ends)
        num_compared += num_written + has_stopped
    seconds = sum(text.seconds_per_token for text in texts) / len(texts)
    return RuntimeProof(name, num_agreed / num_compared, seconds)
