"""Turns of a conversation as the chat template writes them. What is read before an assistant's turn, and the turn itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attar.compressors.data.prompts import encoded, end_token_id, prompt_text, rendered

Message = Mapping[str, Any]


def conversation_prompt(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any]) -> list[int]:
    """Return the tokens of a conversation up to where the assistant begins to speak.

    Raises ValueError when the template refuses it, or leaves out a tool or what somebody other than the assistant says.
    """
    text = prompt_text(tokenizer, messages, tools)
    for tool in tools:
        name = str(tool.get("function", tool).get("name"))
        if name not in text:
            raise ValueError(f"the chat template does not write tools: {name!r} is not in what the model would read")
    for message in messages:
        content = str(message.get("content") or "").strip()
        # what an assistant thought may be left out of earlier turns on purpose
        if message["role"] != "assistant" and content not in text and json.dumps(content)[1:-1] not in text:
            raise ValueError(f"the chat template does not write a turn of {message['role']}: {content[:60]!r}")
    return encoded(tokenizer, text)


def reply_tokens(tokenizer: Any, messages: Sequence[Message], reply: Message, tools: Sequence[Any]) -> list[int]:
    """Return the tokens of an assistant's turn behind `messages`. The chat template writes it, with the token that ends it.

    Where the template marks what an assistant says ({% generation %}), that is taken. Raises ValueError when the template writes the
    turns before it otherwise than they are read when the assistant is asked: no mask would be right.
    """
    prompt = conversation_prompt(tokenizer, messages, tools)
    whole = encoded(tokenizer, rendered(tokenizer, [*messages, reply], tools, is_open=False))
    if whole[: len(prompt)] != prompt:
        raise ValueError(
            "the chat template writes the turns before an answer otherwise once the answer is there: what would be learned "
            "is not what will be asked; accepted: a template whose text before the answer stays the same"
        )
    behind = whole[len(prompt) :]
    end = end_token_id(tokenizer)
    marked = behind[: _marked_length(tokenizer, [*messages, reply], tools, len(prompt), len(whole))]
    if marked:  # some masks leave out what ends the turn
        return marked if end in marked else [*marked, end]
    if end not in behind:
        return [*behind, end]
    return behind[: len(behind) - behind[::-1].index(end)]


def _marked_length(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any], start: int, length: int) -> int:
    """Return how many tokens from `start` on the template's own mask marks as the assistant's; 0 without a mask that begins there."""
    template = tokenizer.get_chat_template(None, list(tools) or None)
    if "{% generation" not in template and "{%- generation" not in template:
        return 0
    given = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tools=list(tools) or None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    mask = [*given["assistant_masks"]]
    mask = mask[len(mask) - length :] if len(mask) >= length else [0] * (length - len(mask)) + mask
    end = start
    while end < length and mask[end]:
        end += 1
    return end - start
