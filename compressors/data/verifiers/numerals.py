"""Numbers as people write them, in any script. 1,234.5 and 1.234,5, 1 234, .5, 3/4, 1 1/2, 1.5 x 10^-3, LaTeX fractions, 50%, a typographic minus.

What is read is exact, a fraction; what is no rational number, such as a root, is a numeral without a value. https://arxiv.org/abs/2110.14168
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

# Longer ones are no answer; and a power with more digits would fill the memory.
MAX_DIGITS = 10_000
# Only the end of a longer text is read: the answer stands there.
MAX_CHARACTERS = 20_000

_IRRATIONAL = "\ue000"
_SUPERSCRIPTS = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_GROUP_SPACES = re.compile(r"(?<=\d)_(?=\d{3}(?!\d))|(?<=\d)(?:[\u00a0\u2007\u2009\u202f’]|\\[,;: ]|~)(?=\d)")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_ROOT = re.compile(r"\\sqrt\s*(?:\[[^\][]*\])?\s*(?:\{[^{}]*\}|\w)|√\s*[({]?[\d.,]*[)}]?|\\pi(?![a-zA-Z])|π")
_SIGNS = str.maketrans(
    dict.fromkeys("−‐‑‒–➖", "-")
    | dict.fromkeys("⁄∕", "/")
    | dict.fromkeys("⋅·∙×", "×")
    | {"٫": ".", "٬": ",", "٪": "%"}
)
_AMOUNT = r"""
    [1-9]\d{0,2}(?:'\d{3})+(?:[.,]\d+)?(?!\d|[.,']\d)       # 1'234.5
  | [1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?!\d|[.,]\d)          # 1,234.5
  | [1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?(?!\d|[.,]\d)        # 12,34,567
  | [1-9]\d{0,2}(?:\.\d{3})+,\d+(?!\d|[.,]\d)               # 1.234,5
  | [1-9]\d{0,2}(?:\.\d{3}){2,}(?!\d|[.,]\d)                # 1.234.567
  | \d+(?:\.\d+){2,}                                        # 31.01.2024: its last part counts
  | [1-9]\d{0,2}(?:[ ]\d{3})+(?:[.,]\d+)?(?!\d|[.,/]\d|[ ]?/) # 1 234
  | \d+\.\d+ | (?<![\w.)\]}])\.\d+                          # 3.14, .5
  | (?<!\d,)\d+,\d+(?!\d|[.,]\d)                            # 3,14
  | \d+
"""
_NUMERAL = re.compile(
    rf"""
    (?P<irrational>{_IRRATIONAL}(?:\s?/\s?\d+)?)
  | (?:(?P<whole>\d+)[ ](?P<part>\d+)[ ]?/[ ]?(?P<parts>\d+)(?![\d/.])
     | (?P<amount>{_AMOUNT})
       (?: [eE](?P<exponent>[+-]?\d+)
         | \s?[×xX*]\s?10\s?(?:\^|\*\*)\s?[{{(]?(?P<ten>[+-]?\d+)[)}}]?
         | \s?(?:\^|\*\*)[{{(]?(?P<power>[+-]?\d+)[)}}]?
         | \s{{0,2}}/\s{{0,2}}(?P<below>\d+(?:\.\d+)?)(?![/\d]) )? )
    (?: \s?×?\s?(?P<root>{_IRRATIONAL}) | \s?(?P<scale>%|‰|percent\b|thousand\b|million\b|billion\b|trillion\b) )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SHARES = {"%": Fraction(1, 100), "percent": Fraction(1, 100), "‰": Fraction(1, 1000)}
_MULTIPLES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_CURRENCY = re.compile(r"(?:US|CA|AU|NZ|HK|R)?[$€£¥₹₽₩₺]\s?$|(?:USD|EUR|GBP|CHF|JPY|INR|CNY|RMB|Rs)\.?\s?$")


@dataclass(frozen=True)
class Numeral:
    """A number in a text. `share`: what 1 means where it is a percentage. No value: a root, a division by 0, or too long."""

    value: Fraction | None
    start: int
    end: int
    share: Fraction = Fraction(1)
    # part of a word or of a unit, as in H2O, x_1 and cm^2: no answer unless there is no other
    is_glued: bool = False

    def equals(self, other: Numeral) -> bool:
        """Say whether both are one number; 50% is 50 as well as 0.5, but not 50% of something else."""
        if self.value is None or other.value is None:
            return False
        if self.share == other.share:
            return self.value == other.value
        return bool({self.value, self.value * self.share} & {other.value, other.value * other.share})


def plain(text: str) -> str:
    """Return a text with the digits, signs and LaTeX of its numbers in one way, as `numerals` reads them."""
    text = text[-MAX_CHARACTERS:]
    text = _SUPERSCRIPTS.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match[0]).replace('−', '-')}}}", text)
    text = "".join(map(_unpacked, text)).replace("{,}", ",").replace("\\!", "")
    text = _GROUP_SPACES.sub("'", text)
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    text = "".join(map(_digit, text)).replace("\\%", "%").replace("\\$", "$")
    text = re.sub(r"\\(?:times|cdot)(?![a-zA-Z])", "×", text)
    text = _ROOT.sub(_IRRATIONAL, _WRAPPED.sub(r"\1", text))
    # what one character stands for may be eighteen
    return _FRACTION.sub(_divided, text)[-MAX_CHARACTERS:]


def numerals(text: str) -> Iterator[Numeral]:
    """Yield the numbers of a text that `plain` has returned, in their order."""
    for match in _NUMERAL.finditer(text):
        yield _numeral(text, match)


def _numeral(text: str, match: re.Match[str]) -> Numeral:
    before = text[max(0, match.start() - 40) : match.start()]
    currency = _CURRENCY.search(before)
    before = before[: currency.start()] if currency else before
    value = None if match["irrational"] or match["root"] else _value(text, match)
    if value is not None and _is_negative(before, text[match.end() : match.end() + 1], is_bare=currency is None):
        value = -value
    scale = (match["scale"] or "").lower()
    if value is not None:
        value *= _MULTIPLES.get(scale, 1)
    is_glued = currency is None and bool(
        re.search(r"[^\W\d_]_\{?$|[\w)}]\s?(?:\^|\*\*)[{(]?[+-]?$", before) or _is_in_word(before)
    )
    return Numeral(value, match.start(), match.end(), _SHARES.get(scale, Fraction(1)), is_glued)


def _value(text: str, match: re.Match[str]) -> Fraction | None:
    if match["whole"]:
        whole, part, parts = (_integer(match[name]) for name in ("whole", "part", "parts"))
        if not whole or part is None or not parts:
            return None
        # 4 7/2 is no mixed number: what stands last counts
        return whole + Fraction(part, parts) if part < parts else Fraction(part, parts)
    is_pair = (
        text[match.start() - 1 : match.start()] in ("(", "[", "{") and text[match.end() : match.end() + 1] in ")]}"
    )
    amount = _decimal(match["amount"], is_pair=is_pair)
    if amount is None:
        return None
    exponent = match["exponent"] or match["ten"]
    if exponent is not None:
        return amount * Fraction(10) ** int(exponent) if _is_short(exponent, 1) else None
    if match["power"] is not None:
        is_defined = _is_short(match["power"], len(match["amount"])) and (amount or int(match["power"]) >= 0)
        return amount ** int(match["power"]) if is_defined else None
    if match["below"] is not None:
        below = _decimal(match["below"], is_pair=False)
        return amount / below if below else None
    return amount


def _decimal(written: str, *, is_pair: bool) -> Fraction | None:
    """Return the value of digits with their points and commas; in (1,5) the comma parts two numbers, of which the last counts."""
    if re.fullmatch(r"\d+(?:\.\d+){2,}", written) and not re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3}){2,}", written):
        return _decimal(written.rpartition(".")[2], is_pair=False)
    digits = written.replace("'", "").replace(" ", "")
    if re.fullmatch(r"\d+,\d+", digits) and is_pair:
        return _decimal(digits.partition(",")[2], is_pair=False)
    is_grouped = re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?", digits)
    if is_grouped:
        digits = digits.replace(",", "")
    elif "," in digits or digits.count(".") > 1:
        digits = digits.replace(".", "").replace(",", ".")
    whole, _, behind = digits.partition(".")
    number = _integer(whole + behind)
    return None if number is None else Fraction(number, 10 ** len(behind))


def _integer(digits: str) -> int | None:
    """Return an integer of at most MAX_DIGITS digits, read in parts: Python refuses to read one of more than 4,300."""
    if len(digits) > MAX_DIGITS:
        return None
    number = 0
    for start in range(0, len(digits), 4000):
        part = digits[start : start + 4000]
        number = number * 10 ** len(part) + int(part)
    return number


def _is_short(exponent: str, num_digits: int) -> bool:
    return len(exponent) < 10 and abs(int(exponent)) * num_digits <= MAX_DIGITS


def _is_negative(before: str, after: str, *, is_bare: bool) -> bool:
    """Say whether the minus in front is a sign: not that of a range, a difference, a word or a list."""
    match = re.search(r"(-)([ ]?)[({$\\]*$", before)
    if match is None:
        return False
    ahead = before[: match.start()]
    last = ahead.rstrip(" ")[-1:]
    if re.search(r"[\w)\]}%-]$", ahead) or re.match(r"[\d)\]}%\ue000]", last):
        return False
    if match[2]:  # "- 7" may begin a list; "= - 7" is a number
        return last in tuple("=([{,:;<>≤≥≈") if last and last != "\n" else not ahead and after == "" and is_bare
    return True


def _is_in_word(before: str) -> bool:
    """Say whether a number stands behind a letter of a script that puts spaces between its words."""
    last = before[-1:]
    return last.lower() != last.upper() and re.search(r"\\[a-zA-Z]+$", before) is None


def _unpacked(character: str) -> str:
    """Return ½ as 1/2, with a space before it: 1½ is no 11/2."""
    if unicodedata.category(character) != "No":
        return character
    normal = unicodedata.normalize("NFKC", character)
    return f" {normal}" if "⁄" in normal else character


def _digit(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.digit(character))
    return "" if category == "Cf" else character


def _divided(match: re.Match[str]) -> str:
    above, below = (match[1] or match[2] or "").strip(), (match[3] or match[4] or "").strip()
    if not re.fullmatch(r"-?[\d.,' ]*\d", above) or not re.fullmatch(r"\d+(?:\.\d+)?", below):
        return f" {_IRRATIONAL} "
    return f" {above}/{below}" if match.string[match.start() - 1 : match.start()].isdigit() else f"{above}/{below}"
