"""Stage `quantize_torch`: a plain model with its matrices in 8 bits or NF4 by bitsandbytes. Within limits measured on held-out text."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from attar.compressors.measure.likelihood import Pair
from attar.compressors.measure.same_logits import OTHER_ORDER, difference
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.paging import bring
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.stages.artifacts.model.expert_facts import float_fraction, refuse_float_experts
from attar.stages.artifacts.model.folder import load_model, load_quantized
from attar.stages.artifacts.model.older_form import write_older_config
from attar.stages.artifacts.model.placement import InMemory, Placement
from attar.stages.artifacts.model.proof import kept_logits, prove_written
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.quantize.limits import Limits, Original, ask_original, broken_limits, heldout_pairs, measure_quality
from attar.stages.runtime.device import Precision, pick_device, pick_dtype
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, metric

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

TABLE = "modules.csv"
RESULT = "quality.json"
# Of the largest logit. int8 rounds what a product reads too, which no rounded matrix shows: 0.02 to 0.06 on random models of 4 blocks.
INT8_INPUTS = 0.25


class QuantizeTorchConfig(StageConfig):
    """Which bits, and what may be lost."""

    limits: Limits
    """What the quantized model may lose on held-out text; past it the stage fails and names the matrices that lost most."""

    method: Literal["int8", "nf4"]
    """int8: by row, outlier channels in float. https://arxiv.org/abs/2208.07339. nf4: 4 bits. https://arxiv.org/abs/2305.14314"""

    precision: Precision = "auto"
    """Dtype that the products compute in, and that of what is not quantized."""

    in_memory: InMemory = "auto"
    """What is in memory at once beside the quantized model: model, the whole original; block, one decoder block of it, read from its file;
    auto, the whole one where it fits. By blocks neither is timed. The numbers are the same."""

    max_tokens: int = Field(default=256, ge=2)
    """Longest held-out continuation, in tokens."""

    max_rows: int = Field(default=64, ge=0)
    """Held-out rows, and windows of the text, on which the loss is measured; 0: all."""


@dataclass(frozen=True, kw_only=True)
class QuantizeTorchInputs:
    """The model, rows of which the held-out ones are measured on, and plain text to measure on."""

    model: ModelArtifact
    data: DatasetArtifact
    text: DatasetArtifact | None = None


def _forecast(config: QuantizeTorchConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model = dict(inputs["model"][0])
    if model.get("quantization", "none") != "none":
        raise ValueError(f"method is {config.method!r}, but the input is quantized already ({model['quantization']})")
    refuse_float_experts(float_fraction(model), "method", config.method)
    num_parameters = float(model.get("num_parameters", 0))
    num_bytes = num_parameters * (1.0 if config.method == "int8" else 0.56)
    return Forecast(
        {**model, "quantization": config.method}, peak_memory_bytes=7 * num_parameters, disk_bytes=num_bytes
    )


@stage("quantize_torch", version=3, forecast=_forecast)
def quantize_torch(config: QuantizeTorchConfig, inputs: QuantizeTorchInputs, workdir: Path) -> ModelArtifact:
    """Quantize a model with bitsandbytes and compare it with the original: KL, greedy agreement, perplexity, size, speed.

    The folder loads in transformers as any other where bitsandbytes is. Raises ValueError when a limit does not hold.
    """
    source, content = inputs.model.path, workdir / "content"
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    pairs = heldout_pairs(source, inputs.data, inputs.text, config.max_rows, config.max_tokens)
    placement = Placement.chosen(config.in_memory, source, 2, device, workdir / "changes")
    original = _ask(placement, source, dtype, pairs, workdir / "logits", inputs.model.facts.vocab_size)
    give_back()  # the room that its blocks had is the quantized model's now
    steps = bar("quantizing", 2, "steps")
    small = (load_quantized if placement.is_paged else load_model)(source, dtype, device, config.method)
    loaded = placement.load(source, dtype)
    errors = _errors(small, loaded)
    rounded, expected = kept_logits(loaded, "quantize_torch"), kept_logits(small, "quantize_torch")
    _check_rounded(rounded, expected, config.method, dtype)
    steps.advance()
    small.save_pretrained(content, safe_serialization=True)
    write_older_config(content)
    copy_tokenizer(source, content)
    if (source / "generation_config.json").exists():
        shutil.copy2(source / "generation_config.json", content / "generation_config.json")
    del small, loaded
    give_back()
    steps.advance()
    # loaded by others, bitsandbytes packs 4 bits for inference and multiplies in bfloat16 where the processor can
    share = INT8_INPUTS if config.method == "int8" else OTHER_ORDER[torch.bfloat16]
    allowed = dict.fromkeys(OTHER_ORDER, share)
    prove_written(content, expected, "quantize_torch", device, allowed)
    runner = TorchRunner(load_model(content, dtype, device))  # as a user will load it
    quality = measure_quality(runner, original, size_fraction=_weight_bytes(content) / _weight_bytes(source))
    if broken := broken_limits(config.limits, quality):
        worst = ", ".join(f"{name} {error:.2g}" for name, error in errors[:3])
        raise ValueError(f"the quantized model loses too much: {'; '.join(broken)}; largest relative error: {worst}")
    with (content / TABLE).open("w", newline="") as stream:
        csv.writer(stream).writerows([("name", "relative_squared_error"), *errors])
    (content / RESULT).write_text(json.dumps(quality.facts(), indent=1))
    return ModelArtifact.at(content, inputs.model.facts | quality.facts() | {"quantization": config.method})


def _ask(
    placement: Placement, source: Path, dtype: torch.dtype, pairs: list[Pair], scratch: Path, vocab_size: int
) -> Original:
    """Ask the original, which is then out of memory. By blocks it is not timed: that would be the time of reading its file."""
    return ask_original(
        TorchRunner(placement.load(source, dtype, keeps_blocks=True)),
        pairs,
        scratch=scratch,
        vocab_size=vocab_size,
        reopen=None if placement.is_paged else lambda: TorchRunner(load_model(source, dtype, placement.device)),
    )


@torch.no_grad()
def _errors(small: PreTrainedModel, original: PreTrainedModel) -> list[tuple[str, float]]:
    """Return |w - q|^2 / |w|^2 of each quantized matrix by name, the largest first. The original gets the rounded numbers in their place."""
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    blocks = {module: block for block in decoder_blocks(original) for module in block.modules()}
    errors = {}
    for name, parameter in small.named_parameters():
        rounded = _rounded(parameter)
        if rounded is None:
            continue
        path, _, key = name.rpartition(".")
        module = original.get_submodule(path)
        if module in blocks:
            bring(blocks[module])
        # bitsandbytes makes nn.Linear of GPT-2's Conv1D, which holds its matrix the other way round
        rounded = rounded.T if isinstance(module, Conv1D) else rounded
        weight = module.get_parameter(key)
        before = weight.float()
        weight.copy_(rounded)
        errors[path] = float((before - rounded.float()).square().sum() / before.square().sum())
    return sorted(errors.items(), key=lambda entry: -entry[1])


def _rounded(parameter: Tensor) -> Tensor | None:
    """Return the numbers that a matrix's codes stand for; None for one that is not quantized."""
    from bitsandbytes.functional import dequantize_4bit  # in an extra

    state, row_scales = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
    if state is not None:
        return dequantize_4bit(parameter.data, state)
    if row_scales is not None:
        return parameter.data.float() * row_scales.float()[:, None] / 127.0
    return None


def _check_rounded(rounded: Tensor, quantized: Tensor, method: str, dtype: torch.dtype) -> None:
    """Raise ValueError unless the runtime computes with the numbers that the codes stand for."""
    error = difference(rounded, quantized)
    metric("proof_rounded_error", error)
    allowed = INT8_INPUTS if method == "int8" else OTHER_ORDER.get(dtype, 5e-2)
    if not error <= allowed:
        raise ValueError(
            f"quantize_torch: the {method} model speaks otherwise than the same model with its matrices rounded, {error:.2g} of the "
            f"largest logit apart (allowed {allowed:g})"
        )


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
