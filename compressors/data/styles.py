"""How the original model is asked to rewrite an answer, by task family. The reference is in view, the answer must stand on its own.

One shape for all, after https://arxiv.org/abs/2410.09982 and https://arxiv.org/abs/2402.13669: question, reference answer, what to do.
The wordings are ours. Each calls the reference "Reference Answer", so that one list of banned phrases catches who speaks of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

STYLES = {
    "general": (
        "{question}\n\n### Reference Answer:\n{answer}\n\n"
        "Refer to the reference answer and write your own response to the question above. Keep the final answer the same."
    ),
    "instruction": (
        "### Instruction:\n{question}\n\n### Reference Answer:\n{answer}\n\n"
        "With the reference answer as a guide, write your own response to the instruction. "
        "Do what it asks, completely, and say nothing about the reference answer."
    ),
    "math": (
        "{question}\n\n### Reference Answer:\n{answer}\n\n"
        "With the reference answer as a guide, solve the problem yourself. Reason step by step, "
        "and end with a sentence that states the same final number and no other."
    ),
    "multiple_choice": (
        "{question}\n\n{choices}\n\n### Reference Answer:\n{answer}\n\n"
        "With the reference answer as a guide, explain in a sentence or two why this choice is right, without naming another. "
        "End with the choice itself, word for word."
    ),
    "code": (
        "{question}\n\n### Reference Answer:\n{answer}\n\n"
        "With the reference answer as a guide, write your own solution. "
        "Keep its names, arguments and behaviour, so that whatever calls it still works; explain it briefly."
    ),
}
AUTO = "auto"


def style_of(choices: Sequence[str], verifier: str) -> str:
    """Return the style that fits a row: by its choices, then by how its answer is checked."""
    if choices:
        return "multiple_choice"
    return "math" if verifier == "number" else "general"


def rewrite_question(question: str, answer: str, choices: Sequence[str], template: str) -> str:
    """Return the question that shows the reference answer; `{choices}` becomes one lettered line a choice.

    Raises ValueError when the template lacks {question} or {answer}.
    """
    if "{question}" not in template or "{answer}" not in template:
        raise ValueError("a rewrite template must contain {question} and {answer}")
    lettered = "\n".join(f"{chr(ord('A') + index)}. {choice}" for index, choice in enumerate(choices))
    return filled(template, question=question, answer=answer, choices=lettered)


def filled(template: str, **values: str) -> str:
    """Return a template with {name} replaced by its value, in one pass. A text that speaks of {answer} itself stays as it is."""
    fields = "|".join(map(re.escape, values))
    return re.sub(r"\{(" + fields + r")\}", lambda match: values[match[1]], template)
