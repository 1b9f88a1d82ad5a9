"""Refuse what does not go together: models of two subjects, and fields that mean nothing to the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import Subject, subject_of


def refuse_mixed(model: Facts, others: Mapping[str, Sequence[Facts]]) -> None:
    """Raise ValueError where models of two subjects meet: neither can stand in for the other."""
    own = subject_of(model)
    for who, some in others.items():
        for given in map(subject_of, some):
            if given is not own:
                raise ValueError(f"input {who} is {given.words}, but model is {own.words}; accepted: two of a kind")


def refuse_causal_fields(subject: Subject, given: Sequence[str], meant: Sequence[str], accepted: str) -> None:
    """Raise ValueError for a field that was set and says something of causal models alone."""
    if unread := [name for name in meant if name in given]:
        raise ValueError(
            f"{unread[0]} is given, but the model is {subject.words}, which it means nothing to; accepted: {accepted}"
        )
