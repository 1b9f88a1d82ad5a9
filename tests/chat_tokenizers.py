"""Tokenizers whose chat templates write turns as real families do: another end than eos, BOS by template, by tokenizer, by both."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from attar.stages.ingest.tiny_model import byte_tokenizer

_TURNS = "{% for m in messages %}"
_END = "{% endfor %}{% if add_generation_prompt %}"
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    f"{_TURNS}{{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}}"
    "<start_of_turn>{{ role }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    f"{_END}<start_of_turn>model\n{{% endif %}}"
)
PHI3 = (
    f"{_TURNS}<|{{{{ m['role'] }}}}|>\n{{{{ m['content'] }}}}<|end|>\n"
    f"{_END}<|assistant|>\n{{% else %}}{{{{ eos_token }}}}{{% endif %}}"
)
LLAMA3 = (
    f"{{{{ bos_token }}}}{_TURNS}<|start_header_id|>{{{{ m['role'] }}}}<|end_header_id|>\n\n{{{{ m['content'] | trim }}}}<|eot_id|>"
    f"{_END}<|start_header_id|>assistant<|end_header_id|>\n\n{{% endif %}}"
)
ZEPHYR = (
    f"{_TURNS}<|{{{{ m['role'] }}}}|>\n{{{{ m['content'] }}}}{{{{ eos_token }}}}\n{_END}<|assistant|>\n{{% endif %}}"
)
LLAMA2 = (
    f"{_TURNS}{{% if m['role'] == 'user' %}}{{{{ bos_token }}}}[INST] {{{{ m['content'] }}}} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
# Turns that call tools, and Qwen 3's way of dropping what earlier turns thought.
HERMES = (
    "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    f"{_TURNS}<|im_start|>{{{{ m['role'] }}}}\n"
    "{% if m['role'] == 'assistant' and not loop.last and '</think>' in m['content'] %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}"
    "{% for c in m['tool_calls'] or [] %}<tool_call>{{ c['function'] | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    f"{_END}<|im_start|>assistant\n{{% endif %}}"
)
# name -> (special tokens, bos, eos, template, whether the tokenizer puts BOS itself, the token that ends a turn)
KINDS: dict[str, tuple[list[str], str, str, str, bool, str]] = {
    "gemma": (["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>", GEMMA, True, "<end_of_turn>"),
    "phi3": (["<s>", "<|user|>", "<|assistant|>", "<|end|>"], "<s>", "<|endoftext|>", PHI3, False, "<|end|>"),
    "llama3": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|end_of_text|>",
        LLAMA3,
        True,
        "<|eot_id|>",
    ),
    "zephyr": (["<s>", "</s>"], "<s>", "</s>", ZEPHYR, True, "</s>"),
    "llama2": (["<s>", "</s>"], "<s>", "</s>", LLAMA2, True, "</s>"),
    "hermes": ([], "<|im_start|>", "<|im_end|>", HERMES, False, "<|im_end|>"),
    "chatml": ([], "<|im_start|>", "<|im_end|>", "", False, "<|im_end|>"),
    "no template, bos and eos": (["<s>", "</s>"], "<s>", "</s>", "-", True, "</s>"),
}


def chat_tokenizer(kind: str) -> Any:
    """Return a byte tokenizer that writes turns as the kind does."""
    special, bos, eos, template, puts_bos, _ = KINDS[kind]
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(token, special=True) for token in special]})
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    if puts_bos:
        single = f"{bos} $A {eos}" if template == "-" else f"{bos} $A"
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (bos, eos)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    if template:
        tokenizer.chat_template = None if template == "-" else template
    return tokenizer
