"""Hold tensors back from a training by their names, whatever kind of model they belong to. https://arxiv.org/abs/2405.20750"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from attar.compressors.models.trained_weights import HasParameters


def freeze_tensors(model: HasParameters, patterns: Sequence[str]) -> list[str]:
    """Freeze the tensors that learn and whose names match a pattern, and return their names.

    Patterns are those of file names: `*.conv1.*`. Raises ValueError for one that names none of what learns, and when nothing is left.
    """
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen: dict[str, None] = {}
    for pattern in patterns:
        names = [name for name in learned if fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(
                f"adapt.freeze has {pattern!r}, which names none of the {len(learned)} tensors that learn; accepted: patterns of their "
                f"names, such as {next(iter(learned), '*')}"
            )
        frozen |= dict.fromkeys(names)
    if patterns and len(frozen) == len(learned):
        raise ValueError(
            f"adapt.freeze is {', '.join(patterns)}, which leaves none of the {len(learned)} tensors to learn; accepted: a part of them"
        )
    for name in frozen:
        learned[name].requires_grad_(False)
    return list(frozen)
