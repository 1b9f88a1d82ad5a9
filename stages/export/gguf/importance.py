"""The importance matrix of a model: what its products read on the data's training rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attar.compressors.models.slots import pad_right
from attar.compressors.quantize.importance import input_powers
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.model.folder import load_model
from attar.stages.export.config import ExportInputs
from attar.stages.export.formats.gguf import ImportanceConfig
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import note


def measure_importance(config: ImportanceConfig, inputs: ExportInputs) -> dict[str, Tensor]:
    """Return E[x^2] (K) of what each product reads, by its name. The float32 model is in memory while it lasts."""
    data: Any = inputs.data  # texts: the forecast refuses images
    samples = training_samples(inputs.model.path, data, config.num_samples, config.max_tokens)
    model = load_model(inputs.model.path, torch.float32)
    starts = range(0, len(samples), config.batch_size)
    powers = input_powers(model, [pad_right(samples[at : at + config.batch_size], model.device) for at in starts])
    note(f"importance of the columns of {len(powers)} matrices over {sum(map(len, samples)):,} tokens")
    del model
    give_back()
    return powers
