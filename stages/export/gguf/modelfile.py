"""A `Modelfile` for Ollama: the file beside it, where an answer stops, and the chat template in Ollama's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.compressors.data.prompts import rendered

ROLES = ("system", "user", "assistant")
# What stands for a turn's text while a template is asked how it writes one.
PROBES = {"system": "PROBE-S", "user": "PROBE-U", "assistant": "PROBE-A"}


@dataclass(frozen=True)
class Turns:
    """What a chat template writes around a turn of each role, at the beginning, and before the answer.

    `unasked`: what stands for the system's turn in a conversation that has none.
    """

    opening: str
    unasked: str
    around: Mapping[str, tuple[str, str]]
    ask: str

    def written(self, messages: Sequence[tuple[str, str]]) -> str:
        """Return a conversation as these turns write it."""
        turns = "".join(f"{self.around[role][0]}{text}{self.around[role][1]}" for role, text in messages)
        return self.opening + ("" if messages[0][0] == "system" else self.unasked) + turns + self.ask

    @property
    def is_plain(self) -> bool:
        """Say whether nothing in it means something to Go's templates or to a Modelfile."""
        text = self.opening + self.unasked + self.ask + "".join(map("".join, self.around.values()))
        return "{{" not in text and '"""' not in text


def modelfile(tokenizer: Any, stops: Sequence[int], file: str, *, adds_bos: bool) -> str:
    """Return the text of a `Modelfile`. https://github.com/ollama/ollama/blob/main/docs/modelfile.md

    A chat template that does more than put text around turns has no TEMPLATE: Ollama takes the one in the file then, if it knows it.
    """
    lines = [f"FROM ./{file}"]
    turns = chat_turns(tokenizer, (tokenizer.bos_token or "") if adds_bos else "")
    if turns is not None:
        lines.append(f'TEMPLATE """{_go_template(turns)}"""')
    else:
        lines.append("# no TEMPLATE: the chat template in the file does more than put text around turns")
    for token in tokenizer.convert_ids_to_tokens(list(stops)):
        lines.append(f'PARAMETER stop "{_quoted(token)}"')
    return "\n".join(lines) + "\n"


def chat_turns(tokenizer: Any, opening: str = "") -> Turns | None:
    """Return how a chat template writes turns; None where it is none, or does more than put text around them.

    `opening`: the token that a runtime puts before every text by itself.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        turns = _read_turns(tokenizer, opening)
        return turns if turns is not None and turns.is_plain and _is_alike(tokenizer, turns) else None
    except ValueError:  # a template that refuses a conversation is none that text around turns can say
        return None


def _read_turns(tokenizer: Any, opening: str) -> Turns | None:
    """Read the text around turns off a conversation in which each role speaks twice but for the first."""
    roles = ("system", "user", "assistant", "user", "assistant")
    text = _rendered(tokenizer, [(role, PROBES[role]) for role in roles], is_open=False)
    parts = []
    for role in roles:
        before, probe, text = text.partition(PROBES[role])
        if not probe:
            return None
        parts.append(before)
    behind_answer = text
    before_system, before_user, before_answer, before_second, _ = parts
    # where the end of an answer and the beginning of a question meet, the end is what stands behind the last answer
    if not before_second.startswith(behind_answer):
        return None
    user = before_second.removeprefix(behind_answer)
    if not before_user.endswith(user):
        return None
    open_text = _rendered(tokenizer, [("system", PROBES["system"]), ("user", PROBES["user"])], is_open=True)
    ask = open_text.rpartition(PROBES["user"])[2]
    unasked = _rendered(tokenizer, [("user", PROBES["user"])], is_open=False).partition(PROBES["user"])[0]
    unasked = unasked.removesuffix(user)
    if not (before_system.startswith(opening) and unasked.startswith(opening)):
        opening = ""
    # of what stands between a question and its answer, the end of the question is what an open conversation has before it asks
    closed = _rendered(tokenizer, [("system", PROBES["system"]), ("user", PROBES["user"])], is_open=False)
    behind_user = closed.rpartition(PROBES["user"])[2]
    if not before_answer.startswith(behind_user) or not ask.startswith(behind_user):
        return None
    around = {
        "system": (before_system.removeprefix(opening), before_user.removesuffix(user)),
        "user": (user, behind_user),
        "assistant": (before_answer.removeprefix(behind_user), behind_answer),
    }
    return Turns(opening, unasked.removeprefix(opening), around, ask.removeprefix(behind_user))


def _is_alike(tokenizer: Any, turns: Turns) -> bool:
    """Compare with the template itself on conversations that it was not read off."""
    conversations = (
        [("user", "How many?")],
        [("system", "Be brief."), ("user", "How many?")],
        [("user", "How many?"), ("assistant", "Two."), ("user", "Why?")],
        [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    )
    return all(_rendered(tokenizer, talk, is_open=True) == turns.written(talk) for talk in conversations)


def _rendered(tokenizer: Any, talk: Sequence[tuple[str, str]], *, is_open: bool) -> str:
    messages = [{"role": role, "content": text} for role, text in talk]
    return rendered(tokenizer, messages, (), is_open=is_open)


def _go_template(turns: Turns) -> str:
    """Return the turns in Go's template language, as Ollama reads it. It writes the opening by itself."""
    branches = []
    for role in ROLES:
        before, behind = turns.around[role]
        word = "if" if not branches else "else if"
        branches.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{behind}')
    unasked = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{turns.unasked}{{{{ end }}}}' if turns.unasked else ""
    return f"{unasked}{{{{ range .Messages }}}}{''.join(branches)}{{{{ end }}}}{{{{ end }}}}{turns.ask}"


def _quoted(token: str) -> str:
    return token.replace("\\", "\\\\").replace('"', '\\"')
