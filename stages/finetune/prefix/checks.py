"""What a training of vectors before the prompt is refused. Told from the config, from facts, and from what it is given, before any work."""

from __future__ import annotations

from collections.abc import Mapping

from attar.compressors.distill.teachers.contexts import ContextBuilder
from attar.registry.artifacts.facts import Facts

NEEDED = frozenset({"demonstrations"})


def check_before_prompt(
    kind: str,
    context: ContextBuilder,
    *,
    has_rollout: bool,
    has_sides: bool,
    learn: str,
    stop_on: str,
    others: Mapping[str, str],
) -> None:
    """Raise ValueError for what vectors before the prompt cannot be learned from. `others`: kinds of past and anchor.

    Those read what the student reads, and know no vector.
    """
    if context.needs != NEEDED:
        raise ValueError(
            f"adapt.kind is {kind!r}, whose vectors stand for demonstrations, but teacher.context tells the teacher none; accepted: "
            "{kind: demonstrations}"
        )
    refused = {
        "rollout.kind": ("another than 'data'", has_rollout),
        "rollout.both_sides": ("true", has_sides),
        "rows.learn": ("'all'", learn == "all"),
        "heldout.stop_on": ("'quality'", stop_on == "quality"),
        **{name: (repr(given), given != "none") for name, given in others.items()},
    }
    for field, (given, is_asked) in refused.items():
        if is_asked:
            raise ValueError(
                f"{field} is {given}, but adapt.kind is {kind!r}; accepted: given answers, learned alone, judged by their loss, of the "
                "teacher alone"
            )


def check_start(kind: str, model: Facts, start: Facts) -> None:
    """Raise ValueError for a compressor to begin with that is not of this training, as far as facts tell."""
    if kind != "compressor":
        raise ValueError(f"the node has an input `start`, but adapt.kind is {kind!r}; accepted: compressor")
    for name in ("hidden_size", "vocab_size"):
        if name in start and name in model and start[name] != model[name]:
            raise ValueError(
                f"start: a compressor for a model with {name} {start[name]}, and this one has {model[name]}; accepted: one for it"
            )


def check_blocks(num_blocks: int, model: Facts) -> None:
    """Raise ValueError for a compressor of as many blocks as the model has, where that is known."""
    has = int(model.get("num_blocks", 0))
    if has and num_blocks >= has:
        raise ValueError(f"adapt.num_blocks is {num_blocks}, but the model has {has} blocks; accepted: 1 to {has - 1}")
