"""Numbers as people write them: which value a text comes to, in any script and notation, in bounded time."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from attar.compressors.data.verifiers.catalogue import SameNumber
from attar.compressors.data.verifiers.final_number import final_number

SIGNS = [
    ("−7", -7), ("–7", -7), ("－7", -7), ("x = −0.5", "-1/2"), ("(−5)", -5), ("**-5**", -5), ("x = - 7", -7), ("- 7", -7),
    ("- 7 apples", 7), ("temp: -5°C", -5), ("roots 2, -3", -3), ("-$5", -5), ("$-5", -5), ("−€1,234.50", "-1234.5"),
    ("5-10", 10), ("5–10", 10), ("5 - 10", 10), ("pages 5 – 10", 10), ("x-3", 3), ("2024-01-31", 31), ("COVID-19", 19), ("5--", 5),
]  # fmt: skip
FORMS = [
    ("#### 1,234", 1234), ("1 234", 1234), ("1\u202f234", 1234), ("1'234", 1234), ("1’234.5", "1234.5"), ("1_000", 1000),
    ("1.234,5", "1234.5"), ("1.234.567", 1234567), ("12,34,567", 1234567), ("1 000 000", 1000000), ("1 234,56 €", "1234.56"),
    ("3,5", "3.5"), ("0,123", "0.123"), ("1,2,3", 3), ("(1,5)", 5), ("31.01.2024", 2024), (".5", "1/2"), ("-.5", "-1/2"), ("5.", 5),
    ("...5", 5), ("1e-3", "1/1000"), ("2.5E+3", 2500), ("1.5 x 10^-3", "0.0015"), ("1.5 × 10^{-3}", "0.0015"), ("1.5×10⁻³", "0.0015"),
    (r"1.5 \times 10^{-3}", "0.0015"), ("10^{3}", 1000), ("10³", 1000), ("2**10", 1024), ("3/4", "3/4"), ("3 / 4", "3/4"), ("½", "1/2"),
    ("1½", "3/2"), ("1 1/2", "3/2"), ("-1 1/2", "-3/2"), ("1⁄2", "1/2"), (r"\frac{1}{2}", "1/2"), (r"-\dfrac{1}{2}", "-1/2"),
    (r"\tfrac12", "1/2"), (r"1\frac{1}{2}", "3/2"), (r"\frac{-3}{4}", "-3/4"), ("1{,}234", 1234), (r"1\,234", 1234), (r"1,\!234", 1234),
    (r"$\$1,234$", 1234), ("USD5", 5), ("5 km", 5), ("5kg", 5), ("25 cm^2", 25), ("25 cm²", 25), ("25 m^{2}", 25), ("3 mol H2O", 3),
    ("x_1 = 3, x_2", 3), ("1.5 million", 1500000), ("1st", 1),
]  # fmt: skip
SCRIPTS = [
    ("٣٫٥", "3.5"),
    ("−٥", -5),
    ("１２３", 123),
    ("१२३", 123),
    ("۱٬۲۳۴", 1234),
    ("答えは５です。", 5),
    ("\u200f-5\u200e", -5),
]
NONE = ["none at all", "inf", "nan", "十", "5/0", "area 4π", r"2\sqrt{3}", "1e99999999999", "9" * 20_000, ""]
FINAL = [
    ("The answer is 42 because 6*7=42", 42), ("The answer is 5. I checked it 3 times.", 5), ("The answer is 6 * 7 = 42.", 42),
    ("The answer is the sum of 3 and 4, which is 7.", 7), (r"so \boxed{42}. Checked 2 times.", 42), (r"\boxed{\frac{3}{4}} of 8", "3/4"),
    ("#### 42\n(2 steps)", 42), ("#### Step 2\nthe total is 42", 42), ("#### 2. Second step\ngives 40", 40),
    ("**Answer:** 42\n\nNote: 3 steps", 42), ("Answer:\n42", 42), ("Answer: 5\nWait. Answer: 6", 6), ("Final answer: **3/4**. (2 tries)", "3/4"),
    ("答案是5。我检查了3次。", 5), ("Ответ: 5. Проверено 3 раза.", 5), ("the answer to question 2 is 7", 7), ("first 5, then 12.", 12),
    ("4π ≈ 12.57", "12.57"), ("√16 = 4", 4), (r"\text{Answer: } -3", -3),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [*SIGNS, *FORMS, *SCRIPTS, *FINAL])
def test_a_number_is_read_as_it_is_meant(text: str, expected: int | str) -> None:
    number = final_number(text)
    assert number is not None and number.value == Fraction(expected)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_fraction_has_no_value(text: str) -> None:
    number = final_number(text)
    assert number is None or number.value is None


@pytest.mark.parametrize(
    ("rewrite", "reference", "passes"),
    [
        ("50%", "50", True), ("50%", "0.5", True), ("0.5", "50%", True), (r"50\%", "1/2", True), ("5 percent", "5%", True),
        ("5%", "0.05%", False), ("0.5%", "50", False), ("5 million", "5", False), ("5 million", "5,000,000", True),
        ("9" * 5000, "9" * 5000, True), ("9" * 5000, "9" * 4999 + "8", False), ("5-10", "-10", False), ("1e400", "1" + "0" * 400, True),
    ],
)  # fmt: skip
def test_two_numbers_are_one_when_their_values_are(rewrite: str, reference: str, passes: bool) -> None:
    reason = SameNumber()(rewrite, reference, [])
    assert (reason is None) is passes, reason


def test_a_reference_without_a_value_is_said_to_be_unusable() -> None:
    check = SameNumber()
    assert check.reference_fault("#### 72", []) is None
    assert check.reference_fault("many", []) == "no number in it"
    assert "no fraction" in (check.reference_fault("9" * 20_000, []) or "")
    assert (check("5", "9" * 20_000, []) or "").startswith("unusable reference (")
    assert check("5", "9" * 5000, []) == "wrong answer (number 5 is not (one of about 5,000 digits))"


PIECES = [
    "9",
    "1,234,",
    "1 ",
    "1.1.",
    "½",
    r"\frac{",
    "answer is ",
    "####",
    r"\boxed{",
    "-",
    "1/",
    "^{2}",
    r"\sqrt",
    "1e1",
    "\ufdfa",
    "√",
    "'1",
    " ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_text_is_read_in_bounded_time(piece: str) -> None:
    """Every text here is of 200,000 characters; on the slowest the reader takes 0.3 s of processor on this suite's machine."""
    start = time.process_time()
    final_number(piece * (200_000 // len(piece)))
    assert time.process_time() - start < 3.0
