"""A program that people have is right where it writes torch's tokens, or at a near tie the other; behind it torch's own token goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.stages.artifacts.gguf.tensors import PlannedTensor
from attar.stages.export.config import ExportConfig
from attar.stages.export.gguf.proof import able_runtimes
from attar.stages.export.proof import tokens
from attar.stages.export.proof.runtimes import Runtime, RuntimeText
from attar.stages.runtime.progress import Note, hearing, listen

END, NEAR, FAR = 9, 0.1, 3.0


class Counter:
    """Counts modulo 8: behind n comes n + 1 by a gap, and next to it n + 2; behind 5 the two are nearly level."""

    device = torch.device("cpu")
    torch_model = None

    def forward(self, input_ids: torch.Tensor, attention_mask: Any, cache: Any, last_only: bool) -> tuple[Any, Any]:
        logits = torch.full((*input_ids.shape, 10), -9.0)
        for row, ids in enumerate(input_ids.tolist()):
            for column, token in enumerate(ids):
                logits[row, column, (token + 1) % 8] = 0.0
                logits[row, column, (token + 2) % 8] = -NEAR if token == 5 else -FAR
        return (logits[:, -1:] if last_only else logits), None


EXPECTED = (3, 4, 5, 6, 7, 0)  # behind 2


def proof_of(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[Sequence[int]], ends: Sequence[int] = (END,), **config: float
) -> tuple[tokens.RuntimeProof, list[list[int]]]:
    """Return what is told of a runtime that gives these answers, a call each, and the prompts that it was given."""
    contexts: list[list[int]] = []

    def run(runtime: Any, path: Path, prompts: Sequence[Sequence[int]], num_new_tokens: int) -> list[RuntimeText]:
        contexts.append(list(prompts[0]))
        return [RuntimeText(tuple(answers[len(contexts) - 1]), 0.5)]

    class Decoded:
        token_ids = EXPECTED

    monkeypatch.setattr(tokens, "run_prompts", run)
    monkeypatch.setattr(tokens, "decode", lambda *args, **kwargs: [Decoded()])
    runtime = Runtime("program", lambda: None, "install it")
    proofs = tokens.prove_by_runtimes(
        ExportConfig(**config),  # type: ignore[arg-type]
        Counter(),  # type: ignore[arg-type]
        Path("file"),
        [[1, 2]],
        runtimes=[runtime],
        ends=ends,
        decides=True,
    )
    return proofs[0], contexts


def test_the_same_text_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, contexts = proof_of(monkeypatch, [EXPECTED])
    assert (proof.token_agreement, proof.num_near_ties, proof.seconds_per_token) == (1.0, 0, 0.5)
    assert contexts == [[1, 2]]


def test_a_near_tie_agrees_and_what_follows_is_compared_behind_torchs_token(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, contexts = proof_of(monkeypatch, [(3, 4, 5, 7, 0, 1), (7, 0, 1)])
    assert (proof.token_agreement, proof.num_near_ties) == (1.0, 1)
    assert contexts == [[1, 2], [1, 2, 3, 4, 5, 6]]
    with pytest.raises(ValueError, match="program writes another text than torch: greedy agreement 66.7%"):
        proof_of(monkeypatch, [(3, 4, 5, 7, 0, 1), (1, 2)])


def test_another_text_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's best by far is passed over, or is passed over by less than a tie asks here."""
    with pytest.raises(ValueError, match=r"greedy agreement 16.7%; accepted: >= 98%"):
        proof_of(monkeypatch, [(3, 5, 6, 7, 0, 1)])
    with pytest.raises(ValueError, match="greedy agreement 50.0%"):
        proof_of(monkeypatch, [(3, 4, 5, 7, 0, 1)], max_tie_logits=NEAR / 2)


def test_a_stop_agrees_where_torch_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, _ = proof_of(monkeypatch, [(3, 4)], ends=(5,))
    assert proof.token_agreement == 1.0
    with pytest.raises(ValueError, match="greedy agreement 66.7%"):
        proof_of(monkeypatch, [(3, 4)])
    proof, _ = proof_of(monkeypatch, [(3, 4, 5), (7, 0)], ends=(7,))
    assert (proof.token_agreement, proof.num_near_ties) == (1.0, 1), "an end that nearly ties"


def test_a_program_that_does_not_read_a_type_is_told_and_left_out() -> None:
    """A K type falls back to q5_0 where rows are no whole blocks, which OpenVINO GenAI does not open; norms stay in float32 everywhere."""
    plain, floats = Runtime("any", lambda: None, ""), Runtime("some", lambda: None, "", frozenset({"f16", "q4_k"}))
    notes: list[Note] = []
    for kinds, able in (
        (("f16", "q4_k"), [plain, floats]),
        (("q4_k", "q5_0"), [plain]),
        (("f32",), [plain]),
    ):
        tensors = [PlannedTensor("m", (4, 4), kind, kind) for kind in kinds] + [PlannedTensor("n", (4,), "f32", "f32")]
        with listen(hearing(note=notes.append)):
            assert able_runtimes([plain, floats], tensors) == able
    assert [note.text.partition(",")[0] for note in notes] == [
        "some reads no matrix of q5_0",
        "some reads no matrix of f32",
    ]
