"""Small changes of the kind that people, editors, generators and disks make: to bytes, to text, and to values inside values."""

from __future__ import annotations

import copy
import random
from typing import Any

from pydantic import BaseModel, ValidationError

# Values that people and programs write in place of what is wanted.
ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 0.0, -0.5, 1e308, float("nan"), float("inf"), "", " ", "None", "yes", "1", "-1",
    "nan", "x", "\u00e9\u4e2d\u6587", "\U0001f600", "a\nb", "../..", "/", "~", "a" * 300, "b " * 20_000, [], {}, [[]], [{}], {"a": 1}, [None], [1, "a"],
    {"": ""}, [[[[[["x"]]]]]], list(range(200)), {str(n): n for n in range(200)}, "{{ x }}", "%s", "\\", "'", '"', "#", "--help",
]  # fmt: skip
ODD_TEXT = [
    "\t", ":", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: *a", "!!int ", "!x ", "|", ">", "#", "'", '"', "\\", "%", "@", "`", "? ", "---\n",
    "...\n", "\0", "\x1b[31m", "\u2028", "\ufeff", "\u00e9", "\U0001f600", ".nan", ".inf", "1e400", "0x_", "0b", "1:30:00", "2001-01-01", "yes", "~",
    "null", "9" * 70, "[" * 40, "a: " * 40, "\n", "  ", "\r", "x" * 2000,
]  # fmt: skip


def checked(config_type: type[BaseModel], **content: Any) -> Any:
    """Return a config. What is wrong with it is a line here too, as a recipe tells it."""
    try:
        return config_type(**content)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None


def odd_value(random_: random.Random) -> Any:
    """Return a value that is seldom what is wanted; now and then a deep or a large one."""
    if random_.random() < 0.04:
        value: Any = "x"
        for _ in range(random_.choice([20, 40, 100])):
            value = [value] if random_.random() < 0.5 else {"a": value}
        return value
    return copy.deepcopy(random_.choice(ODD_VALUES))


def changed_value(tree: Any, random_: random.Random) -> Any:
    """Return a copy of nested values with one place changed: replaced, dropped, doubled, renamed or moved."""
    tree = copy.deepcopy(tree)
    holders = [holder for holder in _holders(tree) if len(holder)]
    if not holders:
        return odd_value(random_)
    holder = random_.choice(holders)
    key = random_.choice(list(holder)) if isinstance(holder, dict) else random_.randrange(len(holder))
    action = random_.choice(["replace", "replace", "drop", "rename", "copy", "add"])
    if action == "drop":
        del holder[key]
    elif action == "rename" and isinstance(holder, dict):
        holder[changed_word(str(key), random_)] = holder.pop(key)
    elif action == "copy":
        other = random_.choice(holders)
        source = random_.choice(list(other.values())) if isinstance(other, dict) else random_.choice(other)
        holder[key] = copy.deepcopy(source)
    elif action == "add" and isinstance(holder, dict):
        holder[random_.choice(["x", "1", "config", "model", "name", "a b", ""])] = odd_value(random_)
    else:
        holder[key] = odd_value(random_)
    return tree


def changed_word(word: str, random_: random.Random) -> str:
    """Return a word with a typo."""
    at = random_.randrange(len(word) + 1)
    return random_.choice(
        [word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word.upper(), word + "s", word[::-1], word * 50]
    )


def changed_text(text: str, random_: random.Random) -> str:
    """Return a text with one change: of a character, a word, a line, its end, or an insertion."""
    at, lines = random_.randrange(len(text) + 1), text.splitlines(keepends=True)
    line = random_.randrange(len(lines)) if lines else 0
    action = random_.choice(
        ["insert", "insert", "delete", "cut", "line gone", "line twice", "lines swapped", "indent", "word", "encode"]
    )
    if action == "insert" or not lines:
        return text[:at] + random_.choice(ODD_TEXT) + text[at:]
    if action == "delete":
        return text[:at] + text[at + random_.randint(1, 10) :]
    if action == "cut":
        return text[:at]
    if action == "line gone":
        return "".join(lines[:line] + lines[line + 1 :])
    if action == "line twice":
        return "".join(lines[: line + 1] + lines[line:])
    if action == "lines swapped":
        other = random_.randrange(len(lines))
        lines[line], lines[other] = lines[other], lines[line]
        return "".join(lines)
    if action == "indent":
        lines[line] = (
            random_.choice([" ", "  ", "\t", "    "]) + lines[line] if random_.random() < 0.5 else lines[line].lstrip()
        )
        return "".join(lines)
    words = text.split(" ")
    index = random_.randrange(len(words))
    words[index] = changed_word(words[index], random_) if action == "word" else random_.choice(ODD_TEXT)
    return " ".join(words)


def changed_bytes(content: bytes, random_: random.Random) -> bytes:
    """Return bytes with one change: some flipped, set, dropped, doubled, or the end cut off."""
    if not content:
        return random_.randbytes(random_.randint(1, 64))
    at = random_.randrange(len(content))
    length = random_.choice([1, 1, 2, 4, 8, 64])
    action = random_.choice(["flip", "flip", "set", "drop", "double", "cut", "high"])
    if action == "flip":
        return content[:at] + bytes([content[at] ^ (1 << random_.randrange(8))]) + content[at + 1 :]
    if action == "set":
        return content[:at] + random_.randbytes(length) + content[at + length :]
    if action == "drop":
        return content[:at] + content[at + length :]
    if action == "double":
        return content[: at + length] + content[at:]
    if action == "high":
        return content[:at] + b"\xff" * length + content[at + length :]
    return content[:at]


def _holders(tree: Any) -> list[Any]:
    holders, pending = [], [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list):
            holders.append(value)
            pending.extend(value.values() if isinstance(value, dict) else value)
    return holders
