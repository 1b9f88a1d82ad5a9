"""How a chat turn becomes tokens, and which tokens begin and end a text."""

from __future__ import annotations

from typing import Any


def answer_tokens(tokenizer: Any, answer: str) -> list[int]:
    """Return the token ids of an answer, with the token that ends it."""
    return [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def chat_prompt(tokenizer: Any, question: str) -> list[int]:
    """Return the token ids of a user turn, up to where the assistant begins to speak.

    With the tokenizer's chat template where it has one, else a plain 'Question/Answer' frame.
    """
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        return tokenizer(text, add_special_tokens=False).input_ids
    return tokenizer(f"Question: {question}\nAnswer: ").input_ids


def start_token_id(tokenizer: Any, token: str = "") -> int:
    """Return the token that a free text begins with: the one named, else the tokenizer's first. Raises ValueError for an unknown one."""
    if token:
        token_id = tokenizer.get_vocab().get(token)
        if token_id is None:
            raise ValueError(f"free_text_start {token!r} is no token of the tokenizer")
        return token_id
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """Return every token that ends an answer: the tokenizer's, and those of the model's generation config."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*ids, tokenizer.eos_token_id) if token is not None})
