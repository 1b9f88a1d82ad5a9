"""A row in a model's tokens: its prompt, and its answer with the token that ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attar.compressors.data.prompts import answer_tokens, chat_prompt, prompt_text, stop_token_ids
from attar.compressors.data.turns import conversation_prompt, reply_tokens
from attar.compressors.distill.teachers.contexts import Wording
from attar.stages.artifacts.dataset.dialogues import transcript
from attar.stages.artifacts.dataset.rows import Row


def row_prompt(tokenizer: Any, row: Row) -> list[int]:
    """Return the prompt of a row, in training, evaluation and everywhere else: its conversation, or its question.

    Raises ValueError, naming the row, where the chat template does not take the conversation.
    """
    if not row.messages:
        return chat_prompt(tokenizer, row.question)
    try:
        return conversation_prompt(tokenizer, row.messages, row.tools)
    except ValueError as error:
        raise ValueError(f"row {row.id}: {error}") from error


def row_prompt_text(tokenizer: Any, row: Row) -> str:
    """Return `row_prompt` as text, without what the tokenizer puts first."""
    return prompt_text(tokenizer, row_messages(row), row.tools)


def row_messages(row: Row) -> list[dict[str, Any]]:
    """Return a row's conversation up to the answer; of a question the user's turn."""
    return row.messages or [{"role": "user", "content": row.question}]


def choice_context(row: Row) -> str:
    """Return what a choice is scored behind, in `evaluate` and `compare` alike: plain text, as the field's tasks have it."""
    return f"Question: {row.question}\nAnswer:"


def with_last_question(row: Row, change: Callable[[str], str]) -> Row:
    """Return the row with what its user says last put another way. Behind a tool's turn that is said once more, at the end."""
    if not row.messages:
        return row.with_changes(question=change(row.question))
    index = max(index for index, message in enumerate(row.messages) if message["role"] == "user")
    turn = row.messages[index] | {"content": change(row.messages[index]["content"])}
    is_last = index == len(row.messages) - 1
    messages = [*row.messages[:index], turn] if is_last else [*row.messages, turn]
    return row.with_changes(messages=messages, question=transcript(messages))


def wording_of(tokenizer: Any) -> Wording:
    """Return how contexts of a teacher become this tokenizer's tokens."""
    return Wording(
        render=lambda question: chat_prompt(tokenizer, question),
        encode=lambda text: tokenizer(text, add_special_tokens=False).input_ids,
        decode=lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True),
        stop_ids=frozenset(stop_token_ids(tokenizer)),
    )


def row_answer(tokenizer: Any, row: Row) -> list[int]:
    """Return the tokens of a row's answer with the token that ends it. A turn that calls tools as the template writes it."""
    return _answer(tokenizer, row, row.answer)


def row_reference(tokenizer: Any, row: Row) -> list[int]:
    """Return the tokens of a row's reference, where another answer took its place, else of its answer."""
    return _answer(tokenizer, row, row.reference or row.answer)


def _answer(tokenizer: Any, row: Row, text: str) -> list[int]:
    if not row.reply:
        return answer_tokens(tokenizer, text)
    try:
        return reply_tokens(tokenizer, row.messages, row.reply, row.tools)
    except ValueError as error:
        raise ValueError(f"row {row.id}: {error}") from error
