"""Read and write plain Hugging Face folders; refuse those that could run code."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from compressors.measure.cost import attention_width, num_matmul_parameters, num_parameters
from compressors.measure.product_attention import attend_by_products
from registry.artifact import Facts, ModelArtifact
from stages.turn_end import with_end
from stages.width_facts import width_facts

if TYPE_CHECKING:
    import transformers
    from transformers import BitsAndBytesConfig

# Formats that unpickle, and source files: loading a model must never run what came with it.
UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".py", ".so"}
UNSAFE_CONFIG_KEYS = ("auto_map", "_attn_implementation_internal", "custom_pipelines")
# How a frozen base is held in memory: as it is, or in 4 or 8 bits by bitsandbytes.
QuantizedBase = Literal["none", "nf4", "int8"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "added_tokens.json",
)
# Where the words are: a tokenizer without one of these knows none.
VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def refuse_unsafe(folder: Path) -> None:
    """Raise ValueError naming the first thing in a model folder that could run code, or that it has no config.json."""
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not _stays_inside(path, folder):
            raise ValueError(f"{folder}: {path.name} links to {path.readlink()}, outside the folder; refused")
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            raise ValueError(f"{folder}: {path.name} can run code when loaded; only safetensors folders are taken")
        if path.suffix == ".json" and path.name.endswith("config.json"):
            found = _unsafe_key(json.loads(path.read_text()))
            if found:
                raise ValueError(f"{folder}: {path.name} asks for remote code ({found}); refused")
        if path.name.endswith(".index.json"):
            _refuse_far_shards(folder, path)


def _stays_inside(link: Path, folder: Path) -> bool:
    """True when a link ends in its folder, or, in the hub's cache, among the blobs that its snapshots consist of."""
    real, home = link.resolve(), folder.resolve()
    is_snapshot = home.parent.name == "snapshots"
    return real.is_relative_to(home) or (is_snapshot and real.is_relative_to(home.parents[1] / "blobs"))


def _unsafe_key(value: Any) -> str:
    """Return the first key that asks for code, at any depth: a config may hold others, for its parts."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            found = [key for key in UNSAFE_CONFIG_KEYS if key in one]
            if found:
                return found[0]
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
    return ""


def _refuse_far_shards(folder: Path, index: Path) -> None:
    """An index names the files that hold the weights; they lie beside it."""
    for shard in set(json.loads(index.read_text()).get("weight_map", {}).values()):
        if Path(shard).name != shard:
            raise ValueError(f"{folder}: {index.name} names {shard}, which is not a file beside it; refused")


def refuse_other_kinds(folder: Path) -> None:
    """Raise ValueError unless the folder holds a causal language model with its head: transformers would make one up around an encoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # a second at import

    config = json.loads((folder / "config.json").read_text())
    known = {
        name
        for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for name in (names if isinstance(names, tuple) else (names,))
    }
    architectures = config.get("architectures") or []
    if config.get("is_encoder_decoder"):
        raise ValueError(
            f"{folder} is an encoder-decoder ({config.get('model_type')}); only causal language models are taken"
        )
    if architectures and not set(architectures) & known:
        raise ValueError(f"{folder} is a {architectures[0]}, not a causal language model; only those are taken")
    if config.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{folder}: model type {config.get('model_type')!r} is no causal language model that transformers knows"
        )


def refuse_no_tokenizer(folder: Path) -> None:
    """Raise ValueError when a folder has no vocabulary: for some families transformers would make up an empty tokenizer."""
    if not any((folder / name).exists() for name in VOCABULARY_FILES):
        raise ValueError(f"{folder} has no tokenizer: none of {', '.join(VOCABULARY_FILES)} is there")


def refuse_other_tokens(folder: Path, other: Path, who: str) -> None:
    """Raise ValueError when `who` gives over one in a hundred of the tokens another id; a few special ones may bear other names."""
    refuse_no_tokenizer(other)
    mine, theirs = (load_tokenizer(place).get_vocab() for place in (folder, other))
    differing = sorted(token for token, index in mine.items() if theirs.get(token) != index)
    if len(differing) > len(mine) / 100:
        example = differing[len(differing) // 2]
        raise ValueError(
            f"vocabulary mismatch: {who} gives {len(differing)} of {len(mine)} tokens another id, {example!r} for one"
        )


def load_model(
    folder: Path, dtype: torch.dtype | str, device: torch.device | None = None, quantized: QuantizedBase = "none"
) -> transformers.PreTrainedModel:
    """Load a safe model folder in evaluation mode, its matrices in 4 or 8 bits where asked, or stored so. Raises ValueError for an unsafe one.

    Told to compute in bfloat16 on a CPU it attends by whole products; under `auto`, as for a copy, it is left as it is.
    """
    import transformers  # a second that a plan need not wait for

    refuse_unsafe(folder)
    refuse_other_kinds(folder)
    quiet_transformers()
    is_placed = quantized != "none" or "quantization_config" in json.loads((folder / "config.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        device_map={"": device or "cpu"} if is_placed else None,
        **_quantization(quantized, dtype),
    )
    if is_placed:  # while loading: a quantized model cannot be moved
        return _without_inference_packing(model.eval())
    model = model.to(device=device) if device is not None else model  # type: ignore[call-arg]
    if dtype in (torch.bfloat16, "bfloat16"):
        attend_by_products(model)
    return model.eval()


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


def _without_inference_packing(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Keep bitsandbytes from repacking 4-bit weights for inference: on a CPU with AVX512-BF16 its first call in evaluation mode does,
    and from then on no gradient passes through them, silently (seen with 0.50.2)."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder. Raises ValueError when it has none."""
    from transformers import AutoTokenizer  # a second that a plan need not wait for

    refuse_no_tokenizer(folder)
    try:
        return with_end(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no tokenizer that loads: {' '.join(str(error).split())}") from error


def save_model(model: transformers.PreTrainedModel, folder: Path, tokenizer_from: Path | None = None) -> ModelArtifact:
    """Write a model as safetensors, copy the tokenizer files beside it, and return the handle with its facts."""
    quiet_transformers()
    model.save_pretrained(folder, safe_serialization=True)
    if tokenizer_from is not None:
        copy_tokenizer(tokenizer_from, folder)
    return ModelArtifact.at(folder, **model_facts(model), companion_bytes=companion_bytes(folder))


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer and the generation config unchanged: writing them again would change them a little each time."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copy2(source / name, folder / name)


def model_facts(model: transformers.PreTrainedModel) -> Facts:
    """Return the facts of a loaded model."""
    return {
        **config_facts(model.config),
        **width_facts(model),
        "num_parameters": num_parameters(model),
        "num_matmul_parameters": num_matmul_parameters(model),
        "attention_width": attention_width(model.config),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def config_facts(config: Any) -> Facts:
    """Return the facts that a config alone tells."""
    return {
        "num_blocks": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "architecture": (config.architectures or [config.model_type])[0],
    }


def folder_facts(folder: Path) -> Facts:
    """Return the facts of a model folder from its config.json: the model is built without memory for its weights.

    Raises ValueError for what no model can be taken from: unsafe, no causal language model, no tokenizer.
    """
    import transformers  # a second that a plan need not wait for
    from transformers import AutoConfig  # a second that a plan need not wait for

    refuse_unsafe(folder)
    refuse_other_kinds(folder)
    refuse_no_tokenizer(folder)
    quiet_transformers()
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    dtype = str(config.dtype or torch.float32).removeprefix("torch.")
    return {**model_facts(model), "dtype": dtype, "companion_bytes": companion_bytes(folder)}


def companion_bytes(folder: Path) -> int:
    """Return the bytes of what lies beside a model's weights and goes where it goes: config and tokenizer."""
    names = (*TOKENIZER_FILES, "config.json", "generation_config.json")
    return sum((folder / name).stat().st_size for name in names if (folder / name).exists())


def quiet_transformers() -> None:
    """Silence the library's own progress bars and advice: our bars and lines tell what happens."""
    from transformers.utils import logging as transformers_logging  # a second that a plan need not wait for

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
