"""Which single rows do not belong into training: too short or long, looping, too easy or too hard. None is kept, a text is the reason."""

from __future__ import annotations

from dataclasses import dataclass

from attar.compressors.data.ngrams import distinct_fraction


@dataclass(frozen=True)
class Length:
    """Length within [least, most], in `unit`; most 0 is no limit."""

    least: int
    most: int
    unit: str

    def __call__(self, length: int) -> str | None:
        if length < self.least:
            return f"too short ({length} {self.unit}, less than {self.least})"
        if self.most and length > self.most:
            return f"too long ({length} {self.unit}, more than {self.most})"
        return None


@dataclass(frozen=True)
class Repetition:
    """Distinct runs of three words / runs of three words, at least this. In [0, 1]; below it a text is in a loop."""

    least: float

    def __call__(self, text: str) -> str | None:
        fraction = distinct_fraction(text)
        return f"repetitive ({fraction:.2f} of its runs are distinct)" if fraction < self.least else None


@dataclass(frozen=True)
class PassRate:
    """Share of the original's own samples that passed, within [least, most]; a row without one passes."""

    least: float
    most: float

    def __call__(self, pass_rate: float | None) -> str | None:
        if pass_rate is None or self.least <= pass_rate <= self.most:
            return None
        return f"{'too hard' if pass_rate < self.least else 'too easy'} (pass rate {pass_rate:.2f})"
