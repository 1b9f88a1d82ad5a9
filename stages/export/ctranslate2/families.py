"""Families that CTranslate2's converter writes as they compute, tried with a small model of each. Others are refused by name."""

from __future__ import annotations

# By the name in a config, and the class that a folder names. Not here, as seen with CTranslate2 4.8.5 and transformers 5.23: Gemma 2 (final logits
# are not capped), Gemma 3 (sizes of heads), Phi-3 and GPT-NeoX (settings by their former names), OPT (its vocabulary is filled up).
FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def refuse_other_families(name: str) -> None:
    """Raise ValueError for a family, by its name or its model's class, that is not written."""
    if name not in FAMILIES and name not in FAMILIES.values():
        raise ValueError(
            f"format.kind is 'ctranslate2', which is not written for the family {name[:60]!r}; accepted: {', '.join(FAMILIES)}"
        )
