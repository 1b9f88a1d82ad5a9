"""Tell an encoder by its facts, as a forecast knows artifacts that are not made yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attar.registry.artifacts.handles import Facts

# Facts that every encoder has from the start and no other model has.
FORM = ("pooling", "is_normalized", "max_tokens")


def is_encoder(facts: Facts) -> bool:
    """Say whether facts are those of an encoder or of its graph."""
    return FORM[0] in facts


def refuse_mixed(model: Facts, others: Mapping[str, Sequence[Facts]]) -> None:
    """Raise ValueError where an encoder meets a causal model: neither can stand in for the other."""
    for who, some in others.items():
        for other in some:
            if is_encoder(other) != is_encoder(model):
                kinds = ("an encoder", "a causal language model")
                own, given = kinds if is_encoder(model) else kinds[::-1]
                raise ValueError(f"input {who} is {given}, but model is {own}; accepted: two of a kind")


def refuse_causal_fields(given: Sequence[str], meant: Sequence[str], accepted: str) -> None:
    """Raise ValueError for a field that was set and says something of causal models alone."""
    if unread := [name for name in meant if name in given]:
        raise ValueError(
            f"{unread[0]} is given, but the model is an encoder, which it means nothing to; accepted: {accepted}"
        )
