"""Read and write plain Hugging Face folders. The whole model or a refusal, in a form that other readers take as it is."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from attar.compressors.masked.form import CONFIG_KEY, MaskedForm
from attar.compressors.measure.cost import attention_width, num_matmul_parameters, num_parameters
from attar.compressors.models.experts import expert_fraction
from attar.compressors.models.paging import pager_of
from attar.compressors.models.row_products import take_fast_paths
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.model.expert_facts import expert_facts, refuse_float_experts
from attar.stages.artifacts.model.load_report import one_line, read_model, read_skeleton, refuse_not_finite
from attar.stages.artifacts.model.older_form import write_older_config
from attar.stages.artifacts.model.paged import write_paged
from attar.stages.artifacts.model.safe_folder import read_object, refuse_other_kinds, refuse_unsafe
from attar.stages.artifacts.model.tensor_files import StoredTensor, tensor_infos
from attar.stages.artifacts.model.tokenizer_files import (
    companion_bytes,
    copy_tokenizer,
    keep_to_rows,
    num_rows,
    refuse_no_tokenizer,
)
from attar.stages.artifacts.model.turn_end import with_end
from attar.stages.artifacts.model.weight_files import weight_files
from attar.stages.artifacts.model.width_facts import width_facts

if TYPE_CHECKING:
    import transformers
    from transformers import BitsAndBytesConfig

# How a frozen base is held in memory: as it is, or in 4 or 8 bits by bitsandbytes.
QuantizedBase = Literal["none", "nf4", "int8"]


def load_model(
    folder: Path,
    dtype: torch.dtype | str,
    device: torch.device | None = None,
    quantized: QuantizedBase = "none",
    strip_from_names: Sequence[str] = (),
) -> transformers.PreTrainedModel:
    """Load a safe model folder in evaluation mode, its matrices in 4 or 8 bits where asked, or stored so.

    Told to compute in bfloat16 on a CPU it attends by whole products; under `auto`, as for a copy, it is left as it is.
    Raises ValueError for an unsafe folder, and unless its weights are all there, finite, and those that its config describes.
    """
    refuse_unsafe(folder)
    refuse_other_kinds(folder)
    quiet_transformers()
    is_stored_quantized = "quantization_config" in read_object(folder / "config.json")
    if not is_stored_quantized:
        skeleton = read_skeleton(folder, strip_from_names)  # before there is memory to be taken
        if quantized != "none":
            refuse_float_experts(expert_fraction(skeleton), "quantized_base", quantized)
    is_placed = quantized != "none" or is_stored_quantized
    placement = {"device_map": {"": device or "cpu"}} if is_placed else {}
    with without_bars() if is_stored_quantized else nullcontext():
        model = read_model(folder, dtype, strip_from_names, **placement, **_quantization(quantized, dtype))
        _expand(model)
    refuse_not_finite(folder, model.state_dict())
    if is_placed:  # while loading: a quantized model cannot be moved
        return _without_inference_packing(model.eval())
    model = model.to(device=device) if device is not None else model  # type: ignore[call-arg]
    take_fast_paths(model, dtype)
    return model.eval()


def load_quantized(
    folder: Path, dtype: torch.dtype, device: torch.device, quantized: QuantizedBase
) -> transformers.PreTrainedModel:
    """Load a folder of float weights as `load_model` does, each matrix read when it is its turn. Memory holds the quantized model and one.

    `load_model` maps the files too, whose pages count until all is loaded. Raises ValueError as it does.
    """
    refuse_unsafe(folder)
    refuse_other_kinds(folder)
    quiet_transformers()
    skeleton = read_skeleton(folder)
    refuse_float_experts(expert_fraction(skeleton), "quantized_base", quantized)
    stored = {name: StoredTensor(name, info) for name, info in tensor_infos(folder).items()}
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, **_quantization(quantized, dtype)}
    model = type(skeleton).from_pretrained(None, config=skeleton.config, state_dict=stored, **options)  # type: ignore[arg-type]
    model._weight_conversions = None  # type: ignore[assignment] - as `read_model` leaves it
    model.generation_config = skeleton.generation_config
    refuse_not_finite(folder, model.state_dict())
    return _without_inference_packing(model.eval())


def _quantization(quantized: QuantizedBase, dtype: torch.dtype | str) -> dict[str, BitsAndBytesConfig]:
    from transformers import BitsAndBytesConfig  # a second that a plan need not wait for

    if quantized == "none":  # left out, not None, which would hide what the folder's own config says
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"quantized_base {quantized!r} needs bitsandbytes: install attar[gpu]")
    if quantized == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": four_bits}


def _expand(model: transformers.PreTrainedModel) -> None:
    """Expand the matrices of a folder of compressed-tensors now, which otherwise happens within the first pass."""
    if hasattr(model, "ct_decompress_hook"):
        model.hf_quantizer.compressor.decompress_model(model)  # type: ignore[union-attr, operator]


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep compressed-tensors' progress bars off the console: they take no setting."""
    with redirect_stderr(io.StringIO()):
        yield


def _without_inference_packing(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Keep bitsandbytes from repacking 4-bit weights for inference: on a CPU with AVX512-BF16 its first call in evaluation mode does,
    and from then on no gradient passes through them, silently (seen with 0.50.2)."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model


def load_base(
    folder: Path, dtype: torch.dtype, device: torch.device, quantized: QuantizedBase
) -> transformers.PreTrainedModel:
    """Load the base that adapters are trained on, as `load_model` does. In 8 bits it computes alike while it is trained and looked at.

    On a CPU bitsandbytes multiplies by the dequantized weights in training mode and rounds the inputs too in evaluation mode, a model
    twice as far from the float base, into which the adapter is merged: held-out losses are those of the weights alone.
    """
    model = load_model(folder, dtype, device, quantized)
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(_by_weights_alone)
    return model


def _by_weights_alone(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    layer.training = True


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder; it refuses text with tokens that the model has no row for. Raises ValueError when it has none."""
    from transformers import AutoTokenizer  # a second that a plan need not wait for

    refuse_no_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{folder} has no tokenizer that loads: {one_line(error)}") from error
    return with_end(keep_to_rows(tokenizer, num_rows(folder)), folder)


def refuse_other_tokens(folder: Path, other: Path, who: str) -> None:
    """Raise ValueError when `who` gives a shared word another id, or lacks over one in a hundred of the tokens.

    A few may bear other names: reserved ones mostly. Two vocabularies trimmed to one size have words in both under other ids.
    """
    refuse_no_tokenizer(other)
    tokenizers = [load_tokenizer(path) for path in (folder, other)]
    own, others = (tokenizer.get_vocab() for tokenizer in tokenizers)
    added = {token for tokenizer in tokenizers for token in tokenizer.get_added_vocab()}
    differing = sorted(token for token, index in own.items() if others.get(token) != index)
    has_moved = any(token in others and token not in added for token in differing)
    if has_moved or len(differing) > len(own) / 100:
        example = differing[len(differing) // 2]
        raise ValueError(
            f"vocabulary mismatch: {who} gives {len(differing)} of {len(own)} tokens another id, {example!r} for one"
        )


def save_model(model: transformers.PreTrainedModel, folder: Path, tokenizer_from: Path | None = None) -> ModelArtifact:
    """Write a model as safetensors, copy the tokenizer files beside it, and return the handle with its facts."""
    quiet_transformers()
    pager = pager_of(model)
    if pager is None:
        model.save_pretrained(folder, safe_serialization=True)
    else:
        write_paged(model, pager, folder)
    write_older_config(folder)
    if tokenizer_from is not None:
        copy_tokenizer(tokenizer_from, folder)
    return ModelArtifact.at(folder, model_facts(model), companion_bytes=companion_bytes(folder))


def model_facts(model: transformers.PreTrainedModel) -> Facts:
    """Return the facts of a loaded model."""
    return {
        **config_facts(model.config),
        **width_facts(model),
        **expert_facts(model),
        "num_parameters": num_parameters(model),
        "num_matmul_parameters": num_matmul_parameters(model),
        "attention_width": attention_width(model.config),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def config_facts(config: Any) -> Facts:
    """Return the facts that a config alone tells."""
    form = MaskedForm.in_config({CONFIG_KEY: getattr(config, CONFIG_KEY, None)})
    masks = {} if form is None else {"mask_token": form.mask_token, "mask_block_size": form.block_size}
    return {
        **masks,
        "num_blocks": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "architecture": (config.architectures or [config.model_type])[0],
    }


def folder_facts(folder: Path, strip_from_names: Sequence[str] = ()) -> Facts:
    """Return the facts of a model folder from its config.json and the headers of its weights, without memory for them.

    Raises ValueError for what no model can be taken from: unsafe, no causal language model, no tokenizer, weights of another model.
    """

    refuse_unsafe(folder)
    refuse_other_kinds(folder)
    refuse_no_tokenizer(folder)
    quiet_transformers()
    is_packed = "quantization_config" in read_object(folder / "config.json")
    model = unquantized_skeleton(folder) if is_packed else read_skeleton(folder, strip_from_names)
    return {**model_facts(model), "companion_bytes": companion_bytes(folder)}


def unquantized_skeleton(folder: Path) -> transformers.PreTrainedModel:
    """Build the skeleton by the config alone. Packed weights are of other names and shapes than the model they stand for."""
    import transformers  # a second that a plan need not wait for

    weight_files(folder)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=config.dtype or torch.float32, trust_remote_code=False
        )


def quiet_transformers() -> None:
    """Silence the library's own progress bars and advice: our bars and lines tell what happens."""
    from transformers.utils import logging as transformers_logging  # a second that a plan need not wait for

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
