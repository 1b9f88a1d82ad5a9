"""Form `compressed_tensors`: round, pack, and prove that transformers reads the folder as the rounded model. Within limits on held-out text."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from attar.compressors.catalogue import build
from attar.compressors.measure.same_logits import OTHER_ORDER, SAME_KERNELS, difference
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.slots import pad_right
from attar.compressors.quantize.block_walk import round_blocks
from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.methods import WEIGHT_METHODS
from attar.compressors.quantize.rounded import Float8Rounding, IntegerRounding, RoundedMatrix, Rounding, rounded_inputs
from attar.registry.artifacts.handles import DatasetArtifact, Facts, ModelArtifact
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.model.expert_facts import float_fraction
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.load_report import read_skeleton
from attar.stages.artifacts.model.older_form import write_older_config
from attar.stages.artifacts.model.proof import check_cache, kept_logits, load_whole
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.contract import Forecast
from attar.stages.export.compressed_tensors.config import CompressedTensorsFormat
from attar.stages.export.compressed_tensors.packing import count_packed, refuse_no_package, write_packed
from attar.stages.export.compressed_tensors.schemes import SCHEMES, MatrixChoice, Scheme, choose_matrices
from attar.stages.quantize.limits import ask_original, broken_limits, heldout_pairs, measure_quality
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WHAT = "export"
TABLE = "modules.csv"
RESULT = "quality.json"
# Of the largest logit. One digit more or less of a product may send an input to the next of 255 codes, and so on through the blocks.
ROUNDED_INPUTS = 0.1


def forecast_compressed_tensors(config: CompressedTensorsFormat, model: Facts) -> Forecast:
    """Return facts and bytes of the folder, and refuse what cannot be packed where the model's facts tell it."""
    if model.get("quantization", "none") != "none":
        raise ValueError(f"scheme is {config.scheme!r}, but the input is quantized already ({model['quantization']})")
    if fraction := float_fraction(model):
        raise ValueError(
            f"scheme is {config.scheme!r}, but fused experts are not packed: {fraction:.0%} of this model would stay in float; "
            "accepted: models without experts"
        )
    scheme, width = SCHEMES[config.scheme], int(model.get("hidden_size", 0))
    if scheme.is_grouped and width % (config.group_size or 32) and config.max_float_fraction < 0.5:
        raise ValueError(
            f"group_size is {config.group_size or 'the largest of 128, 64, 32'}, which does not divide the model's width {width}; "
            "accepted: one that does, or max_float_fraction at least 0.5"
        )
    num_parameters = float(model.get("num_parameters", 0))
    num_packed = float(model.get("num_block_matmul_parameters") or 0)
    left_bytes = torch.empty(0, dtype=getattr(torch, config.dtype)).itemsize
    num_bytes = num_packed * _bits(scheme, config) / 8 + (num_parameters - num_packed) * left_bytes
    facts = {**model, "quantization": config.scheme, "dtype": config.dtype}
    return Forecast(facts, peak_memory_bytes=9 * num_parameters, disk_bytes=num_bytes if num_packed else 0.0)


def export_compressed_tensors(
    config: CompressedTensorsFormat,
    model: ModelArtifact,
    data: DatasetArtifact,
    text: DatasetArtifact | None,
    workdir: Path,
) -> ModelArtifact:
    """Pack a model's matrices, prove the folder, and compare it with the original: KL, greedy agreement, perplexity, bytes, speed.

    The folder loads in transformers as any other where compressed-tensors is installed. Raises ValueError for matrices that the scheme
    does not fit, when the folder is read otherwise than it was meant, and when a limit does not hold.
    """
    refuse_no_package()
    source, content, device = model.path, workdir / "content", pick_device()
    scheme, dtype = SCHEMES[config.scheme], getattr(torch, config.dtype)
    choice = choose_matrices(
        read_skeleton(source), config.scheme, config.group_size, config.exclude, config.max_float_fraction
    )
    samples = training_samples(source, data, config.calibration.num_samples, config.calibration.max_tokens)
    pairs = heldout_pairs(source, data, text, config.calibration.max_rows, config.calibration.max_tokens)
    loaded = load_model(source, torch.float32, device)
    original = ask_original(
        TorchRunner(loaded),
        pairs,
        scratch=workdir / "logits",
        vocab_size=model.facts.vocab_size,
        reopen=lambda: TorchRunner(load_model(source, torch.float32, device)),
    )
    matrices = _round(loaded, choice, config, samples)
    _store_rest(loaded, choice, dtype)
    expected = _expected(loaded, choice, scheme)
    write_packed(loaded, matrices, scheme, dtype, content)
    errors = sorted(((name, matrix.output_error) for name, matrix in matrices.items()), key=lambda entry: -entry[1])
    group_size = next(iter(matrices.values())).group_size
    del loaded, matrices
    write_older_config(content)
    copy_tokenizer(source, content)
    if (source / "generation_config.json").exists():
        shutil.copy2(source / "generation_config.json", content / "generation_config.json")
    _prove(content, expected, scheme, device)
    held = _count(content, source, scheme, choice, model.facts.num_parameters, group_size if scheme.is_grouped else 0)
    runner = TorchRunner(load_model(content, torch.float32, device))  # as a user will load it
    quality = measure_quality(runner, original, size_fraction=held["weight_bytes"] / count_packed(source, 8)[1])
    if broken := broken_limits(config.limits, quality):
        worst = ", ".join(f"{name} {error:.2g}" for name, error in errors[:3])
        raise ValueError(f"the packed model loses too much: {'; '.join(broken)}; largest share of an output lost: {worst}")
    with (content / TABLE).open("w", newline="") as stream:
        csv.writer(stream).writerows([("name", "output_error"), *errors, *((name, why) for name, why in choice.left.items())])
    (content / RESULT).write_text(json.dumps(quality.facts() | held, indent=1))
    facts = model.facts | quality.facts() | held | {"quantization": config.scheme, "dtype": config.dtype}
    return ModelArtifact.at(content, facts)


def _round(
    model: PreTrainedModel, choice: MatrixChoice, config: CompressedTensorsFormat, samples: Sequence[Sequence[int]]
) -> dict[str, RoundedMatrix]:
    size = config.calibration.batch_size
    batches = [pad_right(samples[at : at + size], model.device) for at in range(0, len(samples), size)]
    counter = bar("rounding", len(choice.names), "matrices")
    matrices = {}
    for name, matrix in round_blocks(model, batches, _rounding(config, choice), choice.names):
        matrices[name] = matrix
        counter.advance()
    return matrices


def _rounding(config: CompressedTensorsFormat, choice: MatrixChoice) -> Rounding:
    scheme, dtype = SCHEMES[config.scheme], getattr(torch, config.dtype)
    if scheme.is_float:
        return Float8Rounding(scale_dtype=dtype)
    # of 8 bits the one code without a mirror image adds a 255th to the range, and some processors' products do without it
    grid = Grid(bits=scheme.bits, is_symmetric=True, is_mirrored=scheme.bits == 8, scale_dtype=dtype)
    method = build(WEIGHT_METHODS, config.weight_method, config.params)
    return IntegerRounding(method=method, grid=grid, group_size=choice.group_size)


@torch.no_grad()
def _store_rest(model: PreTrainedModel, choice: MatrixChoice, dtype: torch.dtype) -> None:
    """Round what is not packed to the dtype it is stored in. Scales are rounded already, before codes were chosen."""
    packed = {f"{name}.weight" for name in choice.names}
    for name, parameter in model.named_parameters():
        if name not in packed:
            parameter.copy_(parameter.to(dtype))


def _expected(model: PreTrainedModel, choice: MatrixChoice, scheme: Scheme) -> Tensor:
    """Return the logits of the rounded model in memory, its inputs rounded where the folder's reader rounds them."""
    linears = [model.get_submodule(name) for name in choice.names]
    with rounded_inputs(linears, is_float8=scheme.is_float) if scheme.rounds_inputs else nullcontext():
        return kept_logits(model, WHAT)


def _prove(content: Path, expected: Tensor, scheme: Scheme, device: torch.device) -> None:
    """Load the folder by plain transformers and hold it to the rounded model in memory. Raises ValueError when it is another."""
    give_back()
    model = load_whole(content, WHAT, device, torch.float32)
    error = difference(expected, kept_logits(model, WHAT))
    metric("proof_logit_error", error)
    allowed = ROUNDED_INPUTS if scheme.rounds_inputs else SAME_KERNELS[torch.float32]
    if not error <= allowed:
        raise ValueError(
            f"{WHAT}: the packed {type(model).__name__} speaks otherwise than the rounded model, {error:.2g} of the largest logit apart "
            f"(allowed {allowed:g})"
        )
    steps = dict.fromkeys(OTHER_ORDER, ROUNDED_INPUTS) if scheme.rounds_inputs else OTHER_ORDER
    metric("proof_cache_error", check_cache(model, content, WHAT, device, steps))
    note(f"proved: transformers reads the packed folder as the rounded model, logits to {error:.1e} of the largest")


def _count(
    content: Path, source: Path, scheme: Scheme, choice: MatrixChoice, num_parameters: int, group_size: int
) -> dict[str, float]:
    """Return what the folder really holds, from its headers: bytes, bits a weight, and the share of the weights that is packed."""
    num_packed, num_bytes = count_packed(content, scheme.bits)
    held = {
        "weight_bytes": float(num_bytes),
        "bits_per_weight": 8 * num_bytes / num_parameters,
        "packed_fraction": num_packed / num_parameters,
        "packed_block_fraction": 1 - choice.float_fraction,
    }
    for name, value in held.items():
        metric(name, value)
    groups = f"in groups of {group_size}" if group_size else "a scale a row"
    note(
        f"packed {len(choice.names)} matrices, {groups}: {num_packed / num_parameters:.1%} of all weights; "
        f"{held['bits_per_weight']:.2f} bits a weight in all, {num_bytes:,} bytes"
    )
    for reason in dict.fromkeys(choice.left.values()):
        names = [name for name, why in choice.left.items() if why == reason]
        note(f"stays in float: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}, {reason}")
    return held


def _bits(scheme: Scheme, config: CompressedTensorsFormat) -> float:
    """Return bits a packed weight with its share of the scales, as far as the config tells."""
    scale = 8.0 * torch.empty(0, dtype=getattr(torch, config.dtype)).itemsize
    return scheme.bits + (scale / (config.group_size or 64) if scheme.is_grouped else 0.0)
