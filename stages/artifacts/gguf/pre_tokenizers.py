"""Names that llama.cpp has for how a byte-level tokenizer first cuts text, told from the cuts themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The expression that text is split by -> its name where merges are heeded, and where a word that is a token is taken whole.
EXPRESSIONS: dict[str, tuple[str, str]] = {
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}": ("dbrx", "llama-bpe"),
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}": ("qwen2", ""),
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?|\p{{N}}{{1,3}}|{SLASHED}": (
        "gpt-4o",
        "",
    ),
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|{SLASHED}": ("", "tekken"),
}
GPT2, DIGITS = "gpt-2", "smollm"
MAX_SHOWN = 80


def pre_tokenizer_name(document: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of a byte-level tokenizer's first cuts. Raises ValueError for cuts that it has no name for."""
    steps = _steps(document.get("pre_tokenizer"))
    if any(step.get("add_prefix_space") for step in steps):
        raise ValueError("gguf cannot say a byte-level tokenizer with add_prefix_space: true")
    ignores_merges = bool(document["model"].get("ignore_merges"))
    kinds = [step["type"] for step in steps]
    name = ""
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        name = "" if ignores_merges else GPT2
    elif kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        name = "" if ignores_merges else DIGITS
    elif kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        name = EXPRESSIONS.get(_expression(steps[0]), ("", ""))[ignores_merges]
    if not name:
        shown = ", ".join(kinds) or "none"
        expression = next((_expression(step) for step in steps if step["type"] == "Split"), "")
        more = f" by {expression[:MAX_SHOWN]!r}" if expression else ""
        whole = ", words that are tokens taken whole" if ignores_merges else ""
        raise ValueError(f"gguf has no name for this tokenizer's pre_tokenizer ({shown}{more}{whole})")
    return name


def _steps(given: Any) -> list[Mapping[str, Any]]:
    if given is None:
        return []
    return (
        [step for inner in given["pretokenizers"] for step in _steps(inner)] if given["type"] == "Sequence" else [given]
    )


def _expression(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern") or {}
    is_plain = step.get("behavior") == "Isolated" and not step.get("invert")
    return str(pattern.get("Regex", "")) if is_plain else ""


def pre_tokenizer_of(name: str) -> tuple[Any, bool]:
    """Return the first cuts that a name means, and whether a word that is a token is taken whole.

    Raises ValueError for a name that is not written here.
    """
    from tokenizers import Regex, pre_tokenizers  # seconds with transformers

    if name == GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False), False
    if name == DIGITS:
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        return pre_tokenizers.Sequence(steps), False
    for expression, names in EXPRESSIONS.items():
        if name in names and name:
            split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            return pre_tokenizers.Sequence([split, byte_level]), names.index(name) == 1
    known = [GPT2, DIGITS, *(name for names in EXPRESSIONS.values() for name in names if name)]
    raise ValueError(f"its tokenizer first cuts as {name[:40]!r}; accepted: {', '.join(known)}")
