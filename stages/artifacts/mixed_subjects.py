"""Refuse what does not go together: models of two subjects, and fields that mean nothing to the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attar.registry.artifacts.facts import Facts, several
from attar.registry.artifacts.subjects import Subject, subject_of
from attar.stages.artifacts.classifier.class_form import shortened


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


def check_same_classes(model: Facts, others: Sequence[Facts]) -> None:
    """Raise ValueError for a teacher of other classes: its distribution would be over other things."""
    own = [str(label) for label in several(model, "labels")]
    for other in others:
        counts = [facts.get("num_classes") for facts in (model, other)]
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(
                f"input teacher tells {counts[1]} classes, but model tells {counts[0]}; accepted: the same classes in the same order"
            )
        given = [str(label) for label in several(other, "labels")]
        if own and given and given != own:
            raise ValueError(
                f"input teacher tells {shortened(given)}, but model tells {shortened(own)}; accepted: the same classes in the same order"
            )
