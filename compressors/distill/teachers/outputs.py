"""What a model makes of a batch, as a teacher's outputs. States by name, and of a language model or classifier its distributions too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.models.head import Entries, OutputHead


class TeacherOutputs(Protocol):
    """What a teacher gives for a batch's N positions, without gradient. A modality reads what its kind of model gives."""

    @property
    def states(self) -> Mapping[str, Tensor]:
        """The last hidden states ("hidden") and whatever else it keeps, by name; empty where it keeps none."""
        ...


class DistributionOutputs(TeacherOutputs, Protocol):
    """Outputs with a distribution at each position, computed for some positions at a time."""

    def logprobs(self, tokens: slice) -> Float[Tensor, "n V"]:
        """Return log-probabilities at some of the positions, in nats."""
        ...

    def over(self, entries: Entries) -> DistributionOutputs:
        """Return the same outputs over part of the vocabulary."""
        ...


@dataclass(frozen=True)
class LiveTeacher:
    """The teacher's last hidden states at the same N positions, and its head: its distribution is computed chunk by chunk."""

    hidden: Float[Tensor, "N D"]
    head: OutputHead
    # projections of the last block, where a loss between hidden states reads them
    projections: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def states(self) -> Mapping[str, Tensor]:
        return {"hidden": self.hidden, **self.projections}

    def over(self, entries: Entries) -> LiveTeacher:
        return replace(self, head=self.head.over(entries))

    @torch.no_grad()
    def logprobs(self, tokens: slice) -> Float[Tensor, "n V"]:
        return self.head.logits(self.hidden[tokens]).log_softmax(dim=-1)


@dataclass(frozen=True)
class ClassOutputs:
    """What a teacher says of N rows: logits over C classes, and whatever states it keeps, by name."""

    logits: Float[Tensor, "N C"]
    states: Mapping[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def logprobs(self, tokens: slice) -> Float[Tensor, "n C"]:
        """Return log-probabilities of some of the rows, in nats."""
        return self.logits[tokens].float().log_softmax(dim=-1)

    def over(self, entries: Entries) -> ClassOutputs:
        """Return them over part of the vocabulary, of which classes are none."""
        raise TypeError("classes are compared whole: there is no vocabulary to sample")


@dataclass(frozen=True)
class Teachers:
    """Outputs of a batch's teachers: the teacher itself, a past self, an anchor; None where there is none."""

    teacher: Any = None
    past: Any = None
    anchor: Any = None

    def over(self, entries: Entries) -> Teachers:
        """Return them, each over part of the vocabulary."""
        return Teachers(
            *(None if outputs is None else outputs.over(entries) for outputs in (self.teacher, self.past, self.anchor))
        )

    def logprobs(self, tokens: slice) -> dict[str, Float[Tensor, "n V"] | None]:
        """Return the log-probabilities of each at some of the positions, by name."""
        named = {"teacher": self.teacher, "past": self.past, "anchor": self.anchor}
        return {name: None if outputs is None else outputs.logprobs(tokens) for name, outputs in named.items()}

    @property
    def teacher_states(self) -> Mapping[str, Tensor]:
        """The teacher's states; empty where there is no teacher that is one model."""
        return {} if self.teacher is None else self.teacher.states
