"""What a teacher reads that the student does not, as token ids. It replaces the prompt, and the same answer follows it.

The loss positions stay aligned because the answer's ids are the student's own: whatever stands before them, the teacher's
distribution of the t-th answer token is compared with the student's of the t-th answer token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

ContextNeed = Literal["reference", "verdict", "sibling", "demonstrations", "skill"]


@dataclass(frozen=True)
class Wording:
    """How text becomes ids: `render` a question as a whole prompt, `encode` a piece of text, `decode` ids. `stop_ids` end an answer."""

    render: Callable[[str], list[int]]
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    stop_ids: frozenset[int]


@dataclass(frozen=True)
class ContextParts:
    """What there is to tell about one answer. `sibling_ids`: another answer to the question that is right."""

    question: str
    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    reference: str = ""
    is_correct: bool | None = None
    sibling_ids: Sequence[int] | None = None
    demonstrations: Sequence[tuple[str, str]] = ()
    skill: str = ""


@dataclass(frozen=True)
class Shown:
    """One set of demonstrations, that vectors stand for. Names of their rows, and questions with answers."""

    names: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


class ContextBuilder(Protocol):
    """Returns what the teacher reads in place of the prompt, or None when there is nothing to tell.

    `needs`: what it tells. `is_known_before`: it does not depend on the answer, so that a teacher can write behind it.
    """

    needs: ClassVar[frozenset[ContextNeed]]
    is_known_before: ClassVar[bool]

    def __call__(self, parts: ContextParts, wording: Wording) -> list[int] | None: ...


@dataclass(frozen=True, kw_only=True)
class NoContext:
    """The teacher reads what the student reads."""

    needs: ClassVar[frozenset[ContextNeed]] = frozenset()
    is_known_before: ClassVar[bool] = True

    def __call__(self, parts: ContextParts, wording: Wording) -> list[int] | None:
        return None


@dataclass(frozen=True, kw_only=True)
class ReferenceSolution:
    """The question with its verified solution behind it. https://arxiv.org/abs/2601.18734

    `template` has {question} and {hint}; the wording is ours.
    """

    template: str = (
        "{question}\n\nHere is a reference solution:\n{hint}\n\n"
        "After understanding it, answer the question yourself, step by step."
    )

    needs: ClassVar[frozenset[ContextNeed]] = frozenset({"reference"})
    is_known_before: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_template(self.template)

    def __call__(self, parts: ContextParts, wording: Wording) -> list[int] | None:
        return _hinted_prompt(self.template, parts, parts.reference, wording)


@dataclass(frozen=True, kw_only=True)
class OwnAnswer:
    """The prompt, the student's own answer, and a phrase that says whether it was right; then the same answer again.

    https://arxiv.org/abs/2604.12002. The token that ends the first copy is left out, so that the turn goes on.
    """

    right_phrase: str = "Let me rephrase the above solution."
    wrong_phrase: str = "Wait, this response is wrong. Let me correct it."

    needs: ClassVar[frozenset[ContextNeed]] = frozenset({"verdict"})
    is_known_before: ClassVar[bool] = False

    def __call__(self, parts: ContextParts, wording: Wording) -> list[int] | None:
        if parts.is_correct is None:
            return None
        phrase = self.right_phrase if parts.is_correct else self.wrong_phrase
        answer = list(parts.answer_ids)
        while answer and answer[-1] in wording.stop_ids:
            answer.pop()
        return [*parts.prompt_ids, *answer, *wording.encode(f"\n\n{phrase}\n\n")]


@dataclass(frozen=True, kw_only=True)
class Sibling:
    """The question with another answer of the same group that is right. https://arxiv.org/abs/2604.02288"""

    template: str = "{question}\n\nHere is a correct solution:\n{hint}\n\nNow solve the question yourself."

    needs: ClassVar[frozenset[ContextNeed]] = frozenset({"sibling"})
    is_known_before: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_template(self.template)

    def __call__(self, parts: ContextParts, wording: Wording) -> list[int] | None:
        if not parts.sibling_ids:
            return None
        ids = [token for token in parts.sibling_ids if token not in wording.stop_ids]
        return _hinted_prompt(self.template, parts, wording.decode(ids), wording)


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """The question behind `num_shown` solved ones. https://arxiv.org/abs/2403.06914"""

    num_shown: int = 3
    template: str = "{hint}\n\nQuestion: {question}\nAnswer:"

    needs: ClassVar[frozenset[ContextNeed]] = frozenset({"demonstrations"})
    is_known_before: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.num_shown < 1:
            raise ValueError(f"num_shown is {self.num_shown}; accepted: 1 or more")

    def __call__(self, parts: ContextParts, wording: Wording) -> list[int] | None:
        shown = [pair for pair in parts.demonstrations if pair[0] != parts.question][: self.num_shown]
        return _hinted_prompt(self.template, parts, demonstration_text(shown), wording)


@dataclass(frozen=True, kw_only=True)
class Skill:
    """The question with what earlier attempts taught: what is known of this one, else `text`. https://arxiv.org/abs/2604.10674"""

    text: str = ""
    template: str = "{question}\n\nAdvice from earlier attempts:\n{hint}"

    needs: ClassVar[frozenset[ContextNeed]] = frozenset({"skill"})
    is_known_before: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_template(self.template)

    def __call__(self, parts: ContextParts, wording: Wording) -> list[int] | None:
        return _hinted_prompt(self.template, parts, parts.skill or self.text, wording)


CONTEXTS: dict[str, type[ContextBuilder]] = {
    "none": NoContext,
    "reference": ReferenceSolution,
    "own_answer": OwnAnswer,
    "sibling": Sibling,
    "demonstrations": Demonstrations,
    "skill": Skill,
}


def demonstration_text(shown: Sequence[tuple[str, str]]) -> str:
    """Return solved questions as the text that stands for them."""
    return "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in shown)


def check_template(template: str) -> None:
    """Raise ValueError unless both places are there."""
    for field in ("{question}", "{hint}"):
        if field not in template:
            raise ValueError(f"template has no {field}")


def _hinted_prompt(template: str, parts: ContextParts, hint: str, wording: Wording) -> list[int] | None:
    if not hint:
        return None
    # not str.format: questions and solutions have braces of their own
    before, _, after = template.partition("{question}")
    return wording.render(before.replace("{hint}", hint) + parts.question + after.replace("{hint}", hint))
