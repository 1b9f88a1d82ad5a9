"""What the unguided branch sees: one interface for prompt guidance, context-aware decoding, negative prompts and contrastive decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from attar.compressors.data.prompts import chat_prompt


class Branch(Protocol):
    """Turns a question into the tokens that the conditional branch and the unguided one begin with."""

    def __call__(self, tokenizer: Any, question: str) -> tuple[list[int], list[int]]: ...


@dataclass(frozen=True, kw_only=True)
class NoPrompt:
    """The unguided branch begins with the last token of the prompt and sees nothing of the question. https://arxiv.org/abs/2306.17806"""

    def __call__(self, tokenizer: Any, question: str) -> tuple[list[int], list[int]]:
        prompt = chat_prompt(tokenizer, question)
        return prompt, prompt[-1:]


@dataclass(frozen=True, kw_only=True)
class NoContext:
    """The unguided branch sees the question without its context (context-aware decoding). https://arxiv.org/abs/2305.14739

    `context` stands before every question; `context_end` ends the context inside a question. The paper's alpha is w - 1.
    """

    context: str = ""
    context_end: str = ""

    def __call__(self, tokenizer: Any, question: str) -> tuple[list[int], list[int]]:
        """Return the branches. Raises ValueError for a question without a context."""
        bare = question
        if self.context_end:
            context, end, bare = question.partition(self.context_end)
            if not (end and context.strip() and bare.strip()):
                raise ValueError(
                    f"context_end {self.context_end!r} cuts no context from the question {question[:60]!r}"
                )
        whole = f"{self.context}\n\n{question}" if self.context else question
        return chat_prompt(tokenizer, whole), chat_prompt(tokenizer, bare.strip())


@dataclass(frozen=True, kw_only=True)
class NegativePrompt:
    """The unguided branch answers another prompt, which guidance moves away from."""

    prompt: str

    def __call__(self, tokenizer: Any, question: str) -> tuple[list[int], list[int]]:
        return chat_prompt(tokenizer, question), chat_prompt(tokenizer, self.prompt)


@dataclass(frozen=True, kw_only=True)
class WeakModel:
    """The unguided branch is a weaker model on the same prompt (contrastive decoding). https://arxiv.org/abs/2210.15097"""

    def __call__(self, tokenizer: Any, question: str) -> tuple[list[int], list[int]]:
        prompt = chat_prompt(tokenizer, question)
        return prompt, prompt


BRANCHES: dict[str, type[Branch]] = {
    "no_prompt": NoPrompt,
    "no_context": NoContext,
    "negative_prompt": NegativePrompt,
    "weak_model": WeakModel,
}
