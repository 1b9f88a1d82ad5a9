"""The exits of an encoder as configs name them, after how many blocks each. Refused where the model has none."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import ENCODER, subject_of


def _ascending(exits: tuple[int, ...]) -> tuple[int, ...]:
    if list(exits) != sorted(set(exits)):
        raise ValueError(f"exits are {list(exits)}; accepted: each once, from the first to the last")
    return exits


Exits = Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_ascending)]


def check_exits(exits: tuple[int, ...], model: Facts, field: str, *, ends_there: bool = True) -> None:
    """Raise ValueError for exits that the model has not, where its facts are known. It is of another subject, or not so deep.

    `ends_there`: the last is the model's own, behind which there is nothing.
    """
    if not exits:
        return
    if (subject := subject_of(model)) is not ENCODER:
        raise ValueError(f"{field} is {_shown(exits)}, but the model is {subject.words}; accepted: an encoder")
    num_blocks = int(model.get("num_blocks", exits[-1]))
    if exits[-1] > num_blocks:
        raise ValueError(
            f"{field} is {_shown(exits)}, deeper than the model of {num_blocks} blocks; accepted: 1 to {num_blocks}"
        )
    if ends_there and exits[-1] < num_blocks:
        raise ValueError(
            f"{field} is {_shown(exits)}, and the model goes on to {num_blocks} blocks; accepted: a last exit at {num_blocks}"
        )


def _shown(exits: tuple[int, ...]) -> str:
    return str(exits[0]) if len(exits) == 1 else str(list(exits))
