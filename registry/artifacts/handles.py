"""Handles that travel between stages: where a thing lies, what it is, and the fingerprint of its content."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from attar.registry.artifacts.facts import Fact, Facts

# Name of the files in a data set's `records/` that describe it: .md for people, .json for programs
DATA_CARD = "data_card"
# Name of the table in a merged model's `records/` that says what was tried
TRIALS = "trials"


@dataclass(frozen=True)
class Artifact:
    """A folder on disk with a kind, a key, a fingerprint and facts. Key: how it was made; fingerprint: what is in it.

    A stage returns an unsealed handle (`ModelArtifact.at(folder, num_blocks=24)`); the store seals it with key and fingerprint.
    """

    kind: ClassVar[str] = "artifact"
    # a model that needs no other to run; a graph, which onnxruntime runs; a folder of rows
    is_whole_model: ClassVar[bool] = False
    is_graph: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = False
    path: Path
    facts: Facts = field(default_factory=dict)
    key: str = ""
    fingerprint: str = ""

    @classmethod
    def at(cls, path: Path, **facts: Fact) -> Self:
        """Return an unsealed handle on `path`."""
        return cls(path=path, facts=facts)

    def as_dict(self) -> dict[str, Any]:
        """Return the handle as plain JSON values."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "key": self.key,
            "fingerprint": self.fingerprint,
            "facts": self.facts,
        }


class ModelArtifact(Artifact):
    """A plain Hugging Face folder: config.json, safetensors, tokenizer. Facts: num_blocks, hidden_size, vocab_size, num_parameters, dtype."""

    kind = "model"
    is_whole_model = True


class VisionModelArtifact(Artifact):
    """A vision-language Hugging Face folder with its processor. Facts: num_blocks of its language tower, vocab_size, num_parameters."""

    kind = "vision_model"


class AdapterArtifact(Artifact):
    """A PEFT LoRA adapter folder. Facts: rank, base_fingerprint, vocab_size."""

    kind = "adapter"


class DatasetArtifact(Artifact):
    """`rows.jsonl`, `logprobs/` where a teacher recorded some, a data card in `records/`. Facts: num_rows, num_heldout, vocab_size when recorded."""

    kind = "dataset"
    holds_rows = True


class ScanArtifact(Artifact):
    """`windows.csv`: scores of windows of blocks under each metric; `costs.csv`; `greedy.csv`. Facts: num_blocks, num_tokens, metrics, sizes."""

    kind = "scan"


class OnnxArtifact(Artifact):
    """`model.onnx` with external data, config and tokenizer beside it. Facts: num_blocks, vocab_size, parity numbers."""

    kind = "onnx"
    is_whole_model = True
    is_graph = True


class EvaluationArtifact(Artifact):
    """`evaluation.json`: quality, size and speed of one model. Facts: the headline numbers."""

    kind = "evaluation"


class ComparisonArtifact(Artifact):
    """`comparison.json`: a student's retention of the original, with intervals. Facts: the estimates by measure and data set."""

    kind = "comparison"


class FittedArtifact(Artifact):
    """`fitted.json`: a number that was fitted on held-out rows. A later stage takes it in place of one of its config. Facts: value."""

    kind = "fitted"


class ReleaseArtifact(Artifact):
    """`release.json`: the registered version, its aliases and the gate's verdict. Facts: name, version, is_champion."""

    kind = "release"


KINDS: dict[str, type[Artifact]] = {
    kind.kind: kind
    for kind in (
        ModelArtifact,
        VisionModelArtifact,
        AdapterArtifact,
        DatasetArtifact,
        ScanArtifact,
        OnnxArtifact,
        EvaluationArtifact,
        ComparisonArtifact,
        FittedArtifact,
        ReleaseArtifact,
    )
}
