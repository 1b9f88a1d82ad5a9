"""Families that CTranslate2's converter writes as they compute, tried with a small model of each. Others are refused by name."""

from __future__ import annotations

# By the name in a config, and the class that a folder names.
FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "opt": "OPTForCausalLM",
}


def refuse_other_families(name: str) -> None:
    """Raise ValueError for a family, by its name or its model's class, that is not written."""
    if name not in FAMILIES and name not in FAMILIES.values():
        raise ValueError(
            f"format.kind is 'ctranslate2', which is not written for the family {name[:60]!r}; accepted: {', '.join(FAMILIES)}"
        )
