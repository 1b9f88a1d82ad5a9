"""What a tokenizer's chat template takes. Found by rendering it, so that a user hears of it before prompts are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.registry.artifacts.facts import Facts

# What a template must show again of each message; letters alone, which no template quotes or cuts.
SYSTEM, QUESTION = "attarsystemprobe", "attarquestionprobe"
MAX_REASON_CHARS = 160


def chat_traits(tokenizer: Any) -> tuple[Facts, list[str]]:
    """Return (facts, lines for people) of what a tokenizer's chat template does not do. Nothing where it writes any plain chat.

    `chat_template` is none, parts (it shows content given as parts alone), no_default or raises; `chat_system` is left_out or raises;
    `num_chat_templates` counts them where there is more than one.
    """
    templates = tokenizer.chat_template
    if not templates:
        return {"chat_template": "none"}, []
    is_one = isinstance(templates, str)
    facts: Facts = {} if is_one else {"num_chat_templates": len(templates)}
    if not is_one and "default" not in templates:
        names = ", ".join(sorted(templates))
        line = f"the tokenizer has chat templates ({names}) and none is the default: a plain chat cannot be written"
        return {**facts, "chat_template": "no_default"}, [line]
    text, reason = _render(tokenizer, _turns(QUESTION))
    if QUESTION in text:
        system, line = _system(tokenizer)
        return ({**facts, "chat_system": system}, [line]) if line else (facts, [])
    parts, _ = _render(tokenizer, _turns([{"type": "text", "text": QUESTION}]))
    if QUESTION in parts:
        line = "the chat template shows content given as parts alone: a question given as text would be lost in it"
        return {**facts, "chat_template": "parts"}, [line]
    return {**facts, "chat_template": "raises"}, [f"the chat template does not write a plain question: {reason}"]


def _system(tokenizer: Any) -> tuple[str, str]:
    text, reason = _render(tokenizer, [{"role": "system", "content": SYSTEM}, *_turns(QUESTION)])
    if not text:
        return "raises", f"the chat template takes no system message: {reason}"
    if SYSTEM not in text:
        return "left_out", "the chat template leaves a system message out"
    return "taken", ""


def _turns(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def _render(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return (what the template writes, why it writes nothing)."""
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        tokenizer(text, add_special_tokens=False)  # a token of the template itself may have no row in the model
        return text, "it leaves the question out"
    except Exception as error:  # noqa: BLE001 - a template is a program of somebody else's
        return "", " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__
