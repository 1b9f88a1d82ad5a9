"""How a chat turn becomes tokens, and which tokens begin and end a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What stands for an answer while the template is asked what it writes behind one: no template writes it itself.
PROBE = "ANSWER7Q"


def encoded(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text with exactly one BOS in front. The text may begin with it itself.

    What a tokenizer puts behind a text (EOS) is left out: the text goes on.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids
    first = first_tokens(tokenizer)
    while first and ids[: 2 * len(first)] == [*first, *first]:
        ids = ids[len(first) :]
    return ids if ids[: len(first)] == first else [*first, *ids]


def first_tokens(tokenizer: Any) -> list[int]:
    """Return what the tokenizer puts before any text: its BOS, or nothing."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def text_windows(
    tokenizer: Any, text: str, max_tokens: int, max_text_tokens: int = 0
) -> list[tuple[list[int], list[int]]]:
    """Cut a text, or its first `max_text_tokens` tokens, into windows of at most `max_tokens`: (context, what is to be predicted).

    Each begins with what the tokenizer puts first, which is the context; without that the first token of a window is.
    """
    first = first_tokens(tokenizer)
    ids = encoded(tokenizer, text)[len(first) :]
    ids = ids[: max_text_tokens or len(ids)]
    size = max(1, max_tokens - len(first))
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    return [(first, part) if first else (part[:1], part[1:]) for part in parts]


def choice_tokens(tokenizer: Any, context: str, choice: str) -> list[int]:
    """Return the tokens of a choice as they are behind its context, the two read as one text."""
    return encoded(tokenizer, f"{context} {choice}")[len(encoded(tokenizer, context)) :]


def chat_prompt(tokenizer: Any, question: str) -> list[int]:
    """Return the token ids of a user turn, up to where the assistant begins to speak.

    With the tokenizer's chat template where it has one, else a plain 'Question/Answer' frame.
    """
    return encoded(tokenizer, prompt_text(tokenizer, [{"role": "user", "content": question}]))


def prompt_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> str:
    """Return a conversation up to where the assistant begins to speak, as text.

    Raises ValueError where the template refuses it or leaves a turn out, or where there is none and it is more than a question.
    """
    if getattr(tokenizer, "chat_template", None):
        return rendered(tokenizer, messages, tools, is_open=True)
    if len(messages) > 1 or tools:
        raise ValueError(
            "the tokenizer has no chat template, but the conversation has several turns or tools; "
            "accepted: one question, or a model with a template"
        )
    return f"Question: {messages[0]['content']}\nAnswer: "


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], *, is_open: bool) -> str:
    """Return what the chat template writes; `is_open`: with the beginning of the assistant's next turn. Raises ValueError in its words."""
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=is_open,
        )
    except Exception as error:  # a template is a program of its author's: it may raise anything
        why = " ".join(str(error).split())[:200]
        roles = ", ".join(str(message["role"]) for message in messages)
        raise ValueError(f"the chat template does not take turns of {roles}: {why}") from error


def answer_tokens(tokenizer: Any, answer: str) -> list[int]:
    """Return the token ids of an answer, with the token that ends it."""
    return [*tokenizer(answer, add_special_tokens=False).input_ids, end_token_id(tokenizer)]


def end_token_id(tokenizer: Any) -> int:
    """Return the token that ends an answer: what the chat template writes behind one, else the tokenizer's end of text.

    Raises ValueError where there is neither.
    """
    written = _template_end(tokenizer)
    token = tokenizer.eos_token_id if written is None else written
    if token is None:
        raise ValueError(
            "nothing ends an answer: the chat template writes no special token behind one, and neither the tokenizer nor "
            "generation_config.json names an eos_token; accepted: a model with one of the three"
        )
    return token


def start_token_id(tokenizer: Any, token: str = "") -> int:
    """Return the token that a free text begins with: the one named, else the tokenizer's first. Raises ValueError for an unknown one."""
    if token:
        token_id = tokenizer.get_vocab().get(token)
        if token_id is None:
            raise ValueError(f"free_text_start {token!r} is no token of the tokenizer")
        return token_id
    return end_token_id(tokenizer) if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """Return every token that ends an answer: what the template writes, the tokenizer's, and those of the model's generation config."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    ends = (*ids, tokenizer.eos_token_id, _template_end(tokenizer))
    return sorted({token for token in ends if token is not None})


def _template_end(tokenizer: Any) -> int | None:
    """Return the first added or special token that the chat template writes behind an assistant's turn; None without a template or token."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": PROBE}]
    _, probe, behind = rendered(tokenizer, turns, (), is_open=False).rpartition(PROBE)
    if not probe:
        raise ValueError("the chat template does not write what an assistant says as plain text")
    # an added token counts also where it is not marked as special: some fine-tuned models add theirs so
    marks = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return next((token for token in tokenizer(behind, add_special_tokens=False).input_ids if token in marks), None)
