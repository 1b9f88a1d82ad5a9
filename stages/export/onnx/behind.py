"""Does a graph that takes vectors read them as torch does? The same prompts behind the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.export.parity import DecodedPrompt, Parity, listen_to
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.runner import PrefixedRunner, TorchRunner
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.export.config import ExportConfig
from attar.stages.export.proof.parity import prove_parity

# Vectors of the proof: as many as are usual, no rows of the embedding.
NUM_VECTORS = 16


@dataclass(frozen=True)
class Behind:
    """Vectors, and what the graph says behind them."""

    vectors: Float[Tensor, "P D"]
    answers: list[DecodedPrompt]


def behind_vectors(config: ExportConfig, content: Path, prompts: Sequence[Sequence[int]], scratch: Path) -> Behind:
    """Record what a graph says to prompts behind vectors that are drawn, about as long as an embedding's rows."""
    runner = OnnxRunner(open_session(content, is_frugal=True))
    vectors = 0.1 * torch.randn(NUM_VECTORS, runner.num_channels, generator=torch.Generator().manual_seed(0))
    reading = PrefixedRunner(runner, runner.take_vectors(vectors))
    return Behind(vectors, listen_to(reading, prompts, scratch, num_new_tokens=config.num_new_tokens))


def prove_behind(config: ExportConfig, behind: Behind, model: TorchRunner) -> Parity:
    """Compare with torch, which takes the vectors for good. Raises ValueError where the two differ."""
    return prove_parity(
        config,
        behind.answers,
        PrefixedRunner(model, model.take_vectors(behind.vectors)),
        reading="onnxruntime reads vectors before the prompt",
        refusal="the exported graph does not read vectors as the model does",
        suffix="_behind_vectors",
    )
