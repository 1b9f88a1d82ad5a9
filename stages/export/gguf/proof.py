"""Is the file the model? Its weights as they are written are put into torch, and what readers of the file write is compared with that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attar.compressors.export.parity import Parity, listen_to
from attar.compressors.models.runner import TorchRunner
from attar.stages.artifacts.gguf.header import Architecture
from attar.stages.artifacts.gguf.reading import fill_weights
from attar.stages.artifacts.gguf.tensors import PlannedTensor
from attar.stages.export.config import ExportConfig
from attar.stages.export.gguf.transformers_reader import read_into_model
from attar.stages.export.proof.parity import prove_parity
from attar.stages.export.proof.runtimes import Runtime
from attar.stages.export.proof.tokens import Prompts
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_weights(model: PreTrainedModel, architecture: Architecture, path: Path) -> None:
    """Put the file's weights into a model of the folder, in place. Done with gguf-py's reader."""
    from gguf import GGUFReader  # in an extra

    fill_weights(model, architecture, {tensor.name: tensor for tensor in GGUFReader(path).tensors})


def prove_by_transformers(
    config: ExportConfig, reference: PreTrainedModel, path: Path, folder: Path, prompts: Prompts, scratch: Path
) -> Parity:
    """Compare text and logits of transformers' reading of the file with the reference's. Raises ValueError when they differ."""
    counter = bar("writing with transformers' reading", len(prompts), "prompts")
    reading = TorchRunner(read_into_model(path, folder))
    answers = listen_to(reading, prompts, scratch, num_new_tokens=config.num_new_tokens, on_prompt=counter.advance)
    del reading
    give_back()
    return prove_parity(
        config,
        answers,
        TorchRunner(reference),
        reading="transformers reads the file",
        refusal="transformers reads another model out of the file",
    )


def able_runtimes(runtimes: Iterable[Runtime], tensors: Sequence[PlannedTensor]) -> list[Runtime]:
    """Return the programs that open a file with such matrices. Of the others a note says which type they do not read."""
    kinds = {tensor.kind for tensor in tensors if len(tensor.shape) > 1}
    able: list[Runtime] = []
    for runtime in runtimes:
        unread = set() if runtime.matrix_types is None else kinds - runtime.matrix_types
        if unread:
            note(f"{runtime.name} reads no matrix of {', '.join(sorted(unread))}, so it does not run this file")
        else:
            able.append(runtime)
    return able
