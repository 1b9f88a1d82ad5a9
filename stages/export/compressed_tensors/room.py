"""The compressed-tensors form of a model: rounded, packed, read back by transformers, and held to limits on held-out text."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.catalogue import build
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.slots import pad_right
from attar.compressors.quantize.block_walk import round_blocks
from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.methods import WEIGHT_METHODS
from attar.compressors.quantize.rounded import Float8Rounding, IntegerRounding, RoundedMatrix, Rounding
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.model.expert_facts import float_fraction
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.load_report import read_skeleton
from attar.stages.artifacts.model.older_form import write_older_config
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.contract import Forecast
from attar.stages.export.compressed_tensors.matrices import MatrixChoice, choose_matrices
from attar.stages.export.compressed_tensors.packing import count_packed, refuse_no_package, refuse_packed, write_packed
from attar.stages.export.compressed_tensors.proof import listen_rounded, prove_read
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.compressed_tensors import CompressedTensorsFormat
from attar.stages.export.formats.schemes import SCHEMES, Scheme
from attar.stages.export.proof.prompts import proof_prompts
from attar.stages.quantize.limits import Quality, ask_original, broken_limits, heldout_pairs, measure_quality
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TABLE = "modules.csv"
RESULT = "quality.json"


def forecast_compressed_tensors(form: CompressedTensorsFormat, model: Facts) -> Forecast:
    """Return facts and bytes of the folder, and refuse what cannot be packed where the model's facts tell it."""
    refuse_no_package()
    if fraction := float_fraction(model):
        raise ValueError(
            f"format.scheme is {form.scheme!r}, but fused experts are not packed: {fraction:.0%} of this model would stay in float; "
            "accepted: models without experts"
        )
    scheme, width, dtype = SCHEMES[form.scheme], int(model.get("hidden_size", 0)), getattr(torch, form.dtype)
    if scheme.is_grouped and width % (form.group_size or 32) and form.max_float_fraction < 0.5:
        raise ValueError(
            f"format.group_size is {form.group_size or 'one of 128, 64, 32'}, which does not divide the model's width {width}; "
            "accepted: one that does, or max_float_fraction at least 0.5"
        )
    num_parameters, num_packed = (
        float(model.get("num_parameters", 0)),
        float(model.get("num_block_matmul_parameters") or 0),
    )
    bits = scheme.bits + (8 * dtype.itemsize / (form.group_size or 64) if scheme.is_grouped else 0)
    num_bytes = num_packed * bits / 8 + (num_parameters - num_packed) * dtype.itemsize
    facts = {**model, "quantization": form.scheme, "dtype": form.dtype}
    # the model in float32, its codes, and a block's moments
    return Forecast(facts, peak_memory_bytes=6 * num_parameters, disk_bytes=num_bytes if num_packed else 0.0)


def export_compressed_tensors(
    form: CompressedTensorsFormat, config: ExportConfig, inputs: ExportInputs, workdir: Path
) -> ModelArtifact:
    """Pack a model's matrices, prove the folder, and compare it with the original: KL, greedy agreement, perplexity, bytes, speed.

    The folder loads in transformers as any other where compressed-tensors is installed. Raises ValueError for matrices that the scheme
    does not fit, when the folder is read otherwise than it was meant, and when a limit does not hold.
    """
    refuse_no_package()
    refuse_packed(inputs.model.path)
    source, content, device = inputs.model.path, workdir / "content", pick_device()
    scheme, measured = SCHEMES[form.scheme], form.calibration
    choice = choose_matrices(read_skeleton(source), form.scheme, form.group_size, form.exclude, form.max_float_fraction)
    prompts = proof_prompts(inputs, config.num_prompts)
    data: Any = inputs.data  # texts: the forecast refuses images
    samples = training_samples(source, data, measured.num_samples, measured.max_tokens)
    pairs = heldout_pairs(source, data, inputs.text, measured.max_rows, measured.max_tokens)

    def reopen() -> TorchRunner:
        return TorchRunner(load_model(source, torch.float32, device))

    loaded = load_model(source, torch.float32, device)
    facts: Any = inputs.model.facts  # as data
    vocab_size: int = facts.vocab_size
    original = ask_original(
        TorchRunner(loaded), pairs, scratch=workdir / "logits", vocab_size=vocab_size, reopen=reopen
    )
    matrices = round_model(loaded, choice, form, samples)
    errors = {name: matrix.output_error for name, matrix in matrices.items()}
    store_rest(loaded, choice, getattr(torch, form.dtype))
    expected = listen_rounded(loaded, choice.names, scheme, prompts, config.num_new_tokens)
    write_packed(loaded, matrices, scheme, getattr(torch, form.dtype), content)
    del loaded, matrices
    _copy_companions(source, content)
    held = _count(content, scheme, choice, inputs.model.facts.num_parameters)
    give_back()
    packed = load_model(content, torch.float32, device)  # as a user will load it
    proof = prove_read(packed, expected, prompts, config)
    size_fraction = held["weight_bytes"] / count_packed(source, scheme.bits)[1]
    quality = measure_quality(TorchRunner(packed), original, size_fraction=size_fraction)
    _hold_to_limits(form, quality, errors)
    _write_tables(content, errors, choice, quality.facts() | proof | held)
    known = {"quantization": form.scheme, "dtype": form.dtype, "format": form.kind}
    return ModelArtifact.at(content, inputs.model.facts | quality.facts() | proof | held | known)


def round_model(
    model: PreTrainedModel, choice: MatrixChoice, form: CompressedTensorsFormat, samples: Sequence[Sequence[int]]
) -> dict[str, RoundedMatrix]:
    """Round the chosen matrices in place, calibrated on the samples; return them by name."""
    size = form.calibration.batch_size
    batches = [pad_right(samples[at : at + size], model.device) for at in range(0, len(samples), size)]
    counter = bar("rounding", len(choice.names), "matrices")
    matrices = {}
    for name, matrix in round_blocks(model, batches, rounding_of(form, choice), choice.names, drift=form.drift):
        matrices[name] = matrix
        counter.advance()
    return matrices


def rounding_of(form: CompressedTensorsFormat, choice: MatrixChoice) -> Rounding:
    """Return how a form rounds a matrix."""
    scheme, dtype = SCHEMES[form.scheme], getattr(torch, form.dtype)
    if scheme.is_float:
        return Float8Rounding(scale_dtype=dtype)
    # of 8 bits the code without a mirror image widens the range by one in 127, and -128 overflows some processors' sums
    grid = Grid(bits=scheme.bits, is_symmetric=True, is_mirrored=scheme.bits == 8, scale_dtype=dtype)
    method = build(WEIGHT_METHODS, form.weight_method, form.params)
    return IntegerRounding(method=method, grid=grid, group_size=choice.group_size)


@torch.no_grad()
def store_rest(model: PreTrainedModel, choice: MatrixChoice, dtype: torch.dtype) -> None:
    """Round what is not packed to the dtype it is stored in. Scales are rounded already, before codes were chosen."""
    packed = {f"{name}.weight" for name in choice.names}
    for name, parameter in model.named_parameters():
        if name not in packed:
            rounded = parameter.to(dtype)
            if not bool(torch.isfinite(rounded).all()):
                raise ValueError(f"format.dtype is {dtype}, in which {name} is not finite; accepted: bfloat16, float32")
            parameter.copy_(rounded)


def _copy_companions(source: Path, content: Path) -> None:
    write_older_config(content)
    copy_tokenizer(source, content)
    if (source / "generation_config.json").exists():
        shutil.copy2(source / "generation_config.json", content / "generation_config.json")


def _count(content: Path, scheme: Scheme, choice: MatrixChoice, num_parameters: int) -> dict[str, float]:
    """Return what the folder really holds, from its headers. Bytes, bits a weight, and the share of the weights that is packed."""
    num_packed, num_bytes = count_packed(content, scheme.bits)
    held = {
        "weight_bytes": float(num_bytes),
        "bits_per_weight": 8 * num_bytes / num_parameters,
        "packed_fraction": num_packed / num_parameters,
    }
    for name, value in held.items():
        metric(name, value)
    groups = f"in groups of {choice.group_size}" if choice.group_size else "a scale a row"
    note(
        f"packed {len(choice.names)} matrices, {groups}, {held['packed_fraction']:.1%} of all weights; with embedding, head and norms "
        f"{held['bits_per_weight']:.2f} bits a weight, {num_bytes:,} bytes"
    )
    for reason in dict.fromkeys(choice.left.values()):
        names = [name for name, why in choice.left.items() if why == reason]
        note(f"stays in float: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}")
    return held


def _hold_to_limits(form: CompressedTensorsFormat, quality: Quality, errors: dict[str, float]) -> None:
    if broken := broken_limits(form.limits, quality):
        worst = ", ".join(f"{name} {errors[name]:.2g}" for name in sorted(errors, key=lambda name: -errors[name])[:3])
        raise ValueError(
            f"the packed model loses too much: {'; '.join(broken)}; largest share of an output lost: {worst}"
        )


def _write_tables(content: Path, errors: dict[str, float], choice: MatrixChoice, result: dict[str, float]) -> None:
    rows = [(name, errors[name], "") for name in sorted(errors, key=lambda name: -errors[name])]
    with (content / TABLE).open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("name", "output_error", "stays_in_float"), *rows])
        writer.writerows((name, "", reason) for name, reason in choice.left.items())
    (content / RESULT).write_text(json.dumps(result, indent=1))
