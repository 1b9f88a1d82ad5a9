"""Who writes the sequences of a step. The student of now, a mix with the data, the teacher, or the student repaired by the teacher.

Without a policy it is the data. `drawing.py` does the writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol


class RolloutPolicy(Protocol):
    """Who writes: `writers` are the teacher sources that write, in their order."""

    writers: ClassVar[tuple[str, ...]]

    @property
    def both_sides(self) -> bool:
        """Whether each answer is learned behind the hint too."""
        ...

    @property
    def num_repair_tokens(self) -> int:
        """The most tokens that a teacher adds to an answer that does not end; 0: none is repaired."""
        ...

    @property
    def length_ratio(self) -> float:
        """How many times the data's own length an answer may have before it counts as open. 0: no limit of its own."""
        ...

    @property
    def num_samples(self) -> int: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def temperature(self) -> float: ...

    @property
    def top_p(self) -> float: ...

    @property
    def student_fraction(self) -> float:
        """Share of the prompts that are written to; the data answers the others."""
        ...


@dataclass(frozen=True, kw_only=True)
class StudentWrites:
    """`num_samples` answers of the student to each prompt, drawn at `temperature` within `top_p`, of at most `max_new_tokens`."""

    num_samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0

    writers: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self) -> None:
        check_draws(self)

    @property
    def student_fraction(self) -> float:
        return 1.0

    @property
    def both_sides(self) -> bool:
        return False

    @property
    def num_repair_tokens(self) -> int:
        return 0

    @property
    def length_ratio(self) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class MixedWrites:
    """The student for `student_fraction` of the prompts of a step, the data for the others. https://arxiv.org/abs/2306.13649"""

    student_fraction: float = 0.5
    num_samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0

    writers: ClassVar[tuple[str, ...]] = ("student", "data")

    def __post_init__(self) -> None:
        check_draws(self)
        check_fraction(self.student_fraction)

    @property
    def both_sides(self) -> bool:
        return False

    @property
    def num_repair_tokens(self) -> int:
        return 0

    @property
    def length_ratio(self) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class TeacherWrites:
    """The teacher behind its hint. With `both_sides` each answer is learned twice: behind the plain prompt, and behind the hint.

    The policy that drew it is the teacher. https://arxiv.org/abs/2602.04942
    """

    num_samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    both_sides: bool = False

    writers: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        check_draws(self)

    @property
    def student_fraction(self) -> float:
        return 1.0

    @property
    def num_repair_tokens(self) -> int:
        return 0

    @property
    def length_ratio(self) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class RepairedWrites:
    """The student writes to `student_fraction` of the prompts. An answer that does not end is cut at a random place behind its half, and

    the teacher writes the rest. The student's part is learned too. An answer that ends by itself is left out, and so is one that still
    does not end: learned unjudged, one's own tokens have a mean gradient of zero. The data answers the other prompts.
    `length_ratio`: an answer is open when it is longer than so many times the data's own; 0: `max_new_tokens` alone is the limit.
    https://arxiv.org/abs/2601.09088
    """

    num_samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    num_repair_tokens: int = 128
    student_fraction: float = 1.0
    length_ratio: float = 0.0

    writers: ClassVar[tuple[str, ...]] = ("student", "teacher")

    def __post_init__(self) -> None:
        check_draws(self)
        check_fraction(self.student_fraction)
        if self.num_repair_tokens < 1 or self.length_ratio < 0.0:
            raise ValueError(
                f"num_repair_tokens and length_ratio are {self.num_repair_tokens} and {self.length_ratio}; accepted: 1 or more, 0 or more"
            )

    @property
    def both_sides(self) -> bool:
        return False


ROLLOUTS: dict[str, type[RolloutPolicy]] = {
    "student": StudentWrites,
    "mixed": MixedWrites,
    "teacher": TeacherWrites,
    "repair": RepairedWrites,
}


def check_draws(policy: StudentWrites | MixedWrites | TeacherWrites | RepairedWrites) -> None:
    """Raise ValueError for numbers that draw nothing."""
    if min(policy.num_samples, policy.max_new_tokens) < 1:
        raise ValueError(
            f"num_samples and max_new_tokens are {policy.num_samples} and {policy.max_new_tokens}; accepted: 1 or more"
        )
    if policy.temperature < 0 or not 0.0 < policy.top_p <= 1.0:
        raise ValueError(
            f"temperature and top_p are {policy.temperature} and {policy.top_p}; accepted: 0 or more, and in (0, 1]"
        )


def check_fraction(student_fraction: float) -> None:
    """Raise ValueError unless it is a share."""
    if not 0.0 <= student_fraction <= 1.0:
        raise ValueError(f"student_fraction is {student_fraction}; accepted: from 0 to 1")
