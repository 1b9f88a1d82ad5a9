"""Write an ONNX folder that others can read. Graph and external data, and the files that optimum, transformers.js and onnxruntime-genai want."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.model.older_form import write_older_tokenizer
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.artifacts.model.turn_end import all_ends, configured_ends
from attar.stages.artifacts.onnx_session import GRAPH
from attar.stages.runtime.progress import bar

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra

# optimum and transformers.js look for this name beside the graph's.
DATA = f"{GRAPH}_data"
GENAI = "genai_config.json"
# How transformers.js learns that weights lie beside the graph, in one file. https://huggingface.co/docs/transformers.js
JS_CONFIG = {"use_external_data_format": {GRAPH: 1}}
# Families that onnxruntime-genai knows by name; `decoder` is its word for any other.
GENAI_TYPES = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3", "granite"}
GENAI_NAMES = {
    "inputs": {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "position_ids": "position_ids",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    },
    "outputs": {
        "logits": "logits",
        "present_key_names": "present.%d.key",
        "present_value_names": "present.%d.value",
    },
}
# Of blocks that keep a state of fixed size, by the kinds that configs name.
STATE_KINDS = {"linear_attention", "conv", "mamba", "mamba2", "hybrid", "hybrid_sliding"}
STATE_NAMES = {
    "inputs": {
        "past_conv_names": "past_key_values.%d.conv_state",
        "past_recurrent_names": "past_key_values.%d.recurrent_state",
    },
    "outputs": {"present_conv_names": "present.%d.conv_state", "present_recurrent_names": "present.%d.recurrent_state"},
}
# What no weight is smaller than; the rest (constants, shapes) stays in the graph, so that shape inference sees it.
EXTERNAL_BYTES = 256
# onnxruntime maps the file; a page's beginning is where it can.
ALIGNMENT_BYTES = 4096


def write_graph(graph: ir.Model, folder: Path) -> None:
    """Write the graph and, tensor by tensor, its weights. Never more than one of them in memory, and no 2 GB limit."""
    import onnx_ir as ir  # in an extra

    counter = bar("writing weights", 0, "tensors")

    def written(tensor: Any, info: Any) -> None:
        counter.total = info.total
        counter.advance()

    ir.save(
        graph,
        folder / GRAPH,
        external_data=DATA,
        size_threshold_bytes=EXTERNAL_BYTES,
        alignment=ALIGNMENT_BYTES,
        callback=written,
    )


def read_structure(folder: Path) -> ir.Model:
    """Read a graph whose weights stay references into the folder's file. For a session that runs a part of it on them."""
    import onnx_ir as ir  # in an extra

    return ir.load(folder / GRAPH)


def read_graph(folder: Path) -> ir.Model:
    """Read a graph; its weights stay in the file until they are asked for.

    They are read here and not by onnx-ir, which refuses a file that has a second hard link: a backup by `cp -al` or a deduplicating
    copy of the store leaves it so, and onnxruntime opens it. Raises ValueError for weights outside the folder.
    """
    import onnx_ir as ir  # in an extra

    model = read_structure(folder)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            if Path(tensor.location).name != str(tensor.location):
                raise ValueError(
                    f"{folder / GRAPH}: weights of {value.name} lie outside the folder, in {tensor.location}"
                )
            value.const_value = ir.LazyTensor(
                partial(_read_weight, folder, tensor), dtype=tensor.dtype, shape=tensor.shape, name=value.name
            )
    return model


def _read_weight(folder: Path, tensor: ir.ExternalTensor) -> ir.Tensor:
    import onnx_ir as ir  # in an extra

    shape = tensor.shape.numpy()
    array = np.fromfile(
        folder / str(tensor.location), dtype=tensor.dtype.numpy(), count=math.prod(shape), offset=tensor.offset or 0
    )
    return ir.Tensor(array.reshape(shape), dtype=tensor.dtype, name=tensor.name)


def disk_bytes(folder: Path) -> int:
    """Return the size of graph and weights."""
    return sum((folder / name).stat().st_size for name in (GRAPH, DATA))


def copy_companions(source: Path, folder: Path, *, is_in_place: bool = True, cache: str = "") -> None:
    """Copy config, generation config and tokenizer of a model or ONNX folder, and write what onnxruntime-genai and transformers.js read.

    `is_in_place`: the graph's attention writes the cache in place. `cache`: the type of its numbers; empty: as the source says.
    """
    copy_tokenizer(source, folder)
    if (source / "generation_config.json").exists():
        shutil.copy2(source / "generation_config.json", folder / "generation_config.json")
    write_tokenizer_config(folder)
    config = json.loads((source / "config.json").read_text())
    # version 3 of transformers.js makes a cache of this type, version 4 reads it off the graph
    kind = cache or (config.get("transformers.js_config") or {}).get("kv_cache_dtype", "float32")
    js_config = JS_CONFIG | ({"kv_cache_dtype": kind} if kind != "float32" else {})
    (folder / "config.json").write_text(json.dumps({**config, "transformers.js_config": js_config}, indent=2) + "\n")
    (folder / GENAI).write_text(json.dumps(_genai_config(folder, is_in_place=is_in_place), indent=1))


def write_tokenizer_config(folder: Path) -> None:
    """Say in the tokenizer's config what others read there alone: the chat template (transformers.js), names that transformers 4 knows."""
    template, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if not path.exists():
        return
    write_older_tokenizer(folder)
    config = read_object(path)
    if template.exists():
        config["chat_template"] = template.read_text()
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _ends(folder: Path, configured: Any) -> Any:
    """Return the tokens at which a runtime stops: as configured, and where its template ends a turn with another one that too."""
    ends = all_ends(load_tokenizer(folder), folder)
    return configured if len(ends) == len(configured_ends(folder)) else ends


def _genai_config(folder: Path, *, is_in_place: bool) -> dict[str, Any]:
    """Return the description of the graph that onnxruntime-genai wants. https://onnxruntime.ai/docs/genai/reference/config.html"""
    from transformers import AutoConfig  # seconds to import

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    path = folder / "generation_config.json"
    special = {**config.to_dict(), **(json.loads(path.read_text()) if path.exists() else {})}
    ends = _ends(folder, special.get("eos_token_id"))
    num_cached, head_size = _cached_heads(config)
    first_end = ends[0] if isinstance(ends, list) else ends
    pad = special.get("pad_token_id")
    has_states = bool(STATE_KINDS & set(getattr(config, "layer_types", None) or []))
    names = {ports: {**GENAI_NAMES[ports], **(STATE_NAMES[ports] if has_states else {})} for ports in GENAI_NAMES}
    return {
        "model": {
            "type": config.model_type if config.model_type in GENAI_TYPES else "decoder",
            "vocab_size": config.vocab_size,
            "context_length": config.max_position_embeddings,
            "bos_token_id": special.get("bos_token_id"),
            "eos_token_id": ends,
            "pad_token_id": first_end if pad is None else pad,
            "decoder": {
                "filename": GRAPH,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": config.hidden_size,
                "head_size": head_size,
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": num_cached,
                "num_hidden_layers": config.num_hidden_layers,
                **names,
            },
        },
        "search": {
            "do_sample": False,
            "max_length": config.max_position_embeddings,
            # the attention node writes the cache in place, a recurrence beside it
            "past_present_share_buffer": is_in_place and not has_states,
        },
    }


def _cached_heads(config: Any) -> tuple[int, int]:
    """Return the number and the size of the heads whose keys and values are cached; of latents the graph caches what they expand to."""
    num_heads = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):
        return num_heads, max(config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return getattr(config, "num_key_value_heads", None) or num_heads, head_size
