"""Say in a delivered folder what transformers 4 reads too. Without it, it takes rope base 10000 and says nothing, or refuses the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attar.stages.artifacts.model.safe_folder import read_object

# What transformers 5 calls a tokenizer without a class of its own, and the name that 4 and 5 know.
NEWER_CLASS, OLDER_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
# What transformers 4 takes from elsewhere than the scaling: the base, and the share of a head that turns.
NOT_SCALING = ("rope_theta", "partial_rotary_factor")
DEFAULT_ROPE = "default"
Rope = Mapping[str, Any]
# Families whose folders gave the same logits in transformers 4.57.3 and 5.23: what the slow test of older readers shows.
READ_BY_BOTH = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt2",
    "gpt_neox",
    "opt",
    "olmo2",
    "smollm3",
    "granite",
    "mixtral",
    "glm",
    "stablelm",
    "phi",
    "cohere2",
    "starcoder2",
}


def write_older_config(folder: Path) -> None:
    """Add the names that transformers 4 reads to a folder's config.json. Only where transformers 5 reads the same model from both forms."""
    path = folder / "config.json"
    config = read_object(path)
    both = config | older_names(config)
    if both == config:
        return
    before = _rope(folder)
    _write(path, both)
    if _rope(folder) != before:  # 5 would read the older names first, and otherwise
        _write(path, config)


def readers_of(folder: Path) -> str:
    """Return which transformers read a folder rightly. 4.57 and 5 where that was shown of its family, else the one that wrote it and newer."""
    config = read_object(folder / "config.json")
    names = older_names(config)
    is_said = not config.get("rope_parameters") or (
        bool(names) and all(config.get(name) == value for name, value in names.items())
    )
    if config.get("model_type") in READ_BY_BOTH and is_said and "quantization_config" not in config:
        return "transformers 4.57 or 5"
    with_package = " with compressed-tensors, or vLLM" if _packing(config) == "compressed-tensors" else ""
    return f"transformers {config.get('transformers_version', '5')} or newer{with_package}"


def _packing(config: Mapping[str, Any]) -> Any:
    packing = config.get("quantization_config")
    return packing.get("quant_method") if isinstance(packing, dict) else None


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers 4 calls the rotary embedding of a config in the form of 5. Empty where it cannot say it."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    by_layer_type = NESTED.get(str(config.get("model_type")))
    if all(isinstance(part, dict) for part in rope.values()):
        full, sliding = rope.get("full_attention"), rope.get("sliding_attention")
        return by_layer_type(full, sliding) if by_layer_type and full and sliding else {}
    return _flat(config, rope)


def write_older_tokenizer(folder: Path) -> None:
    """Rewrite the words of a tokenizer's config that transformers 4 does not know."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return
    config = read_object(path)
    older = dict(config)
    if config.get("tokenizer_class") == NEWER_CLASS:
        older["tokenizer_class"] = OLDER_CLASS
    if isinstance(config.get("extra_special_tokens"), list):  # 4 wants a mapping under this name
        older["additional_special_tokens"] = older.pop("extra_special_tokens")
    if older != config:
        _write(path, older)


def _flat(config: Mapping[str, Any], rope: Rope) -> dict[str, Any]:
    family = config.get("model_type")
    names = {name: rope[name] for name in NOT_SCALING if name in rope}
    if family == "gpt_neox":
        renamed = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
        names |= {older: rope[newer] for older, newer in renamed.items() if newer in rope}
    return names | _scaling(rope, STRICT_SCALING.get(str(family), ()))


def _scaling(rope: Rope, strict: tuple[str, ...] = ()) -> dict[str, Any]:
    if rope.get("rope_type", DEFAULT_ROPE) == DEFAULT_ROPE:
        return {}
    scaling = {name: value for name, value in rope.items() if name not in NOT_SCALING}
    if strict:
        scaling = {name: scaling[name] for name in strict if name in scaling} | {"type": scaling["rope_type"]}
    return {"rope_scaling": scaling}


def _gemma3(full: Rope, sliding: Rope) -> dict[str, Any]:
    if sliding.get("rope_type", DEFAULT_ROPE) != DEFAULT_ROPE:
        return {}
    bases = {"rope_theta": full["rope_theta"], "rope_local_base_freq": sliding["rope_theta"]}
    return bases | _scaling(full)


def _olmo3(full: Rope, sliding: Rope) -> dict[str, Any]:
    if sliding.get("rope_type", DEFAULT_ROPE) != DEFAULT_ROPE or full["rope_theta"] != sliding["rope_theta"]:
        return {}
    return {"rope_theta": full["rope_theta"]} | _scaling(full)


def _modernbert(full: Rope, sliding: Rope) -> dict[str, Any]:
    if {full.get("rope_type", DEFAULT_ROPE), sliding.get("rope_type", DEFAULT_ROPE)} != {DEFAULT_ROPE}:
        return {}
    return {"global_rope_theta": full["rope_theta"], "local_rope_theta": sliding["rope_theta"]}


# Families whose layers turn by their kind, and how transformers 4 says it.
NESTED: dict[str, Callable[[Rope, Rope], dict[str, Any]]] = {
    "gemma3_text": _gemma3,
    "gemma3n_text": _gemma3,
    "olmo3": _olmo3,
    "modernbert-decoder": _modernbert,
}
# Families whose transformers 4 config takes these fields of a scaling and its `type`, no other.
STRICT_SCALING = {
    "olmo": ("factor",),
    "olmo2": ("factor",),
    "phi3": ("short_factor", "long_factor"),
}


def _rope(folder: Path) -> Any:
    """Return the rotary embedding as transformers 5 reads it; `type` is its older word for `rope_type`, and says nothing more."""
    from transformers import AutoConfig  # a second that a plan need not wait for

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    rope = getattr(config, "rope_parameters", None) or {}
    plain = {name: value for name, value in rope.items() if name != "type"}
    return {name: dict(sorted(value.items())) if isinstance(value, dict) else value for name, value in plain.items()}


def _write(path: Path, config: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
