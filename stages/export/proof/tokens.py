"""Do the programs that people have write torch's own greedy tokens from what was written?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from attar.compressors.models.decode import decode
from attar.compressors.models.runner import CausalRunner
from attar.stages.export.config import ExportConfig
from attar.stages.export.proof.runtimes import Runtime, RuntimeText, run_prompts
from attar.stages.runtime.progress import bar, metric, note

Prompts = Sequence[Sequence[int]]
# Each opens the file anew. A model that ties more often is told by what was compared until then.
MAX_RESTARTS = 8


@dataclass(frozen=True)
class RuntimeProof:
    """What a runtime made of the file.

    The share of greedy tokens that are torch's, near ties among them; how many tied; seconds a token.
    """

    name: str
    token_agreement: float
    num_near_ties: int
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
        texts = [_Text(prompt, own.token_ids) for prompt, own in zip(prompts, expected, strict=True)]
        proof = _runtime_proof(runtime, path, texts, _Reader(reference, ends, config.max_tie_logits))
        counter.advance()
        if proof is None:
            note(f"{runtime.name} is not installed, so it did not run {path.name}: {runtime.install}")
            continue
        metric(f"token_agreement_{runtime.name}", proof.token_agreement)
        ties = f", {proof.num_near_ties} near ties among them" if proof.num_near_ties else ""
        note(f"{runtime.name}: greedy agreement {proof.token_agreement:.1%}{ties}, {_speed(proof)} tokens a second")
        if decides and proof.token_agreement < config.min_token_agreement:
            raise ValueError(
                f"{runtime.name} writes another text than torch: greedy agreement {proof.token_agreement:.1%}; "
                f"accepted: >= {config.min_token_agreement:.0%}"
            )
        proofs.append(proof)
    return proofs


def _speed(proof: RuntimeProof) -> str:
    return f"{1 / proof.seconds_per_token:.1f}" if proof.seconds_per_token else "?"


@dataclass(frozen=True)
class _Reader:
    """What torch says of a token that a runtime wrote in place of its own."""

    reference: CausalRunner
    ends: Collection[int]
    max_tie_logits: float

    def is_tie(self, context: Sequence[int], expected: int, written: Collection[int]) -> bool:
        """Say whether the best of some tokens is as good as the expected one, up to the rounding of a runtime's sums."""
        ids = torch.tensor([list(context)], device=self.reference.device)
        with torch.inference_mode():
            logits = self.reference.forward(ids, torch.ones_like(ids), None, True)[0][0, -1]
        return bool(written) and float(logits[expected] - logits[list(written)].max()) <= self.max_tie_logits


@dataclass
class _Text:
    """A prompt, what torch writes behind it, and how far a runtime was followed. It goes on behind a near tie with torch's own token."""

    prompt: Sequence[int]
    expected: Sequence[int]
    num_read: int = 0
    num_agreed: int = 0
    num_compared: int = 0
    num_ties: int = 0
    is_done: bool = False

    @property
    def context(self) -> list[int]:
        return [*self.prompt, *self.expected[: self.num_read]]

    def follow(self, written: Sequence[int], reader: _Reader) -> None:
        """Compare what a runtime wrote behind the context. What torch writes behind an end does not count."""
        remaining = self.expected[self.num_read :]
        written = written[: len(remaining)]
        num_same = next((index for index, token in enumerate(written) if token != remaining[index]), len(written))
        self._count(num_same, num_same)
        if num_same == len(remaining):
            self.is_done = True
            return
        # a runtime that stops has chosen one of the ends, and does not say which
        expected, chosen = remaining[num_same], written[num_same : num_same + 1] or reader.ends
        has_agreed = num_same == len(written) and expected in reader.ends
        is_tie = not has_agreed and reader.is_tie(self.context, expected, chosen)
        self.num_ties += is_tie
        self.is_done = not is_tie or expected in reader.ends
        behind = 1 if is_tie else max(1, len(written) - num_same)
        self._count(int(has_agreed or is_tie), behind)

    def _count(self, num_agreed: int, num_compared: int) -> None:
        self.num_agreed += num_agreed
        self.num_compared += num_compared
        self.num_read += num_compared


def _runtime_proof(runtime: Runtime, path: Path, texts: Sequence[_Text], reader: _Reader) -> RuntimeProof | None:
    """Return what a runtime makes of the file; None where it is not installed."""
    answers: list[RuntimeText] = []
    for _ in range(1 + MAX_RESTARTS):
        going_on = [text for text in texts if not text.is_done and text.num_read < len(text.expected)]
        if not going_on:
            break
        num_new_tokens = max(len(text.expected) - text.num_read for text in going_on)
        written = run_prompts(runtime, path, [text.context for text in going_on], num_new_tokens)
        if written is None:
            return None
        for text, answer in zip(going_on, written, strict=True):
            text.follow(answer.token_ids, reader)
        answers += written
    timed = [answer.seconds_per_token for answer in answers if answer.seconds_per_token]
    return RuntimeProof(
        runtime.name,
        sum(text.num_agreed for text in texts) / sum(text.num_compared for text in texts),
        sum(text.num_ties for text in texts),
        sum(timed) / len(timed) if timed else 0.0,
    )
