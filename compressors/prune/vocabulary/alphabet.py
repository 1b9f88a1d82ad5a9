"""What every text can be written in: bytes, as characters or as tokens of their own, or single characters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

# How sentencepiece writes a space; a decoder turns it back before it joins bytes, so that no byte can stand for it.
SPACE = "▁"


@cache
def byte_characters() -> dict[str, int]:
    """Return the character that byte-level tokenizers write for each byte, as GPT-2 defined it.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [number for number in range(256) if number not in printable]
    shifted = {chr(256 + index): number for index, number in enumerate(others)}
    return {**{chr(number): number for number in printable}, **shifted}


def bytes_text(token: str) -> str | None:
    """Return the text of a byte-level token; None where its bytes are no whole characters."""
    numbers = byte_characters()
    if any(character not in numbers for character in token):  # an added token is written as it is
        return token
    try:
        return bytes(numbers[character] for character in token).decode()
    except UnicodeDecodeError:
        return None


def byte_tokens(tokens: Iterable[str]) -> set[str]:
    """Return the tokens of single bytes, as sentencepiece writes them: <0x00> to <0xFF>."""
    return {f"<0x{number:02X}>" for number in range(256)} & set(tokens)


def characters_among(tokens: Iterable[str], prefix: str = "", suffix: str = "") -> set[str]:
    """Return the tokens of one character. Prefix and suffix of pieces within and at the end of a word do not count."""
    return {token for token in tokens if len(token.removeprefix(prefix).removesuffix(suffix)) == 1 or len(token) == 1}
