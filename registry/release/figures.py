"""The names that figures go by, and a figure as text. Never without its interval and what it was measured on, where they are known."""

from __future__ import annotations

from collections.abc import Mapping

# Behind a figure's name: the ends of its 95% interval, or the quartiles of a time.
LOW, HIGH = "_low", "_high"
# What an accuracy and a perplexity were measured on.
QUESTIONS, TEXT_TOKENS = "num_questions", "num_text_tokens"


def is_figure(name: str) -> bool:
    """Say whether a number is a figure of its own. Ends of intervals and counts are none."""
    last = name.rpartition("/")[2]
    return not last.endswith((LOW, HIGH)) and not last.startswith((QUESTIONS, TEXT_TOKENS))


def with_interval(figures: Mapping[str, float], name: str, digits: int = 4) -> str:
    """Return a figure such as `0.71 [0.62, 0.79] on 99 questions`; `name` may stand behind a form, as in `model/accuracy`."""
    text = f"{figures[name]:.{digits}g}"
    ends = [f"{figures[name + end]:.3g}" for end in (LOW, HIGH) if name + end in figures]
    if len(ends) == 2:
        text += f" [{', '.join(ends)}]"
    form, slash, last = name.rpartition("/")
    task = last.removeprefix("accuracy")
    counted = {f"{form}{slash}{QUESTIONS}{task}": "questions"} if task != last else {}
    if last == "perplexity":
        counted = {f"{form}{slash}{TEXT_TOKENS}": "tokens"}
    return text + "".join(f" on {figures[key]:,.0f} {unit}" for key, unit in counted.items() if key in figures)
