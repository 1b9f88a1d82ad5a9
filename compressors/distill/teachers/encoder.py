"""An encoder as training runs it, student or teacher, and a teacher's vectors that were computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.reasoning import STEP_STATES
from attar.compressors.distill.examples.sentences import SentenceBatch
from attar.compressors.distill.teachers.student import projected
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.encode.early_exits import states_after
from attar.compressors.encode.encoder import SentenceEncoder
from attar.compressors.encode.projections import projection_names


@dataclass(frozen=True)
class Vectors:
    """A teacher's outputs that are vectors, one a text, and what is read beside them."""

    hidden: Float[Tensor, "N D"]
    projections: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def states(self) -> Mapping[str, Tensor]:
        return {"hidden": self.hidden, **self.projections}


class EncoderStudent(nn.Module):
    """A sentence encoder under training, pooling included: of a batch it makes a vector a text.

    `reads` the states of the tokens, or of latent tokens and steps, where a loss does: those of the last forward pass are in `projections`.
    `exits`: numbers of blocks behind each of which it makes them; as a teacher it speaks from the last.
    """

    reads: tuple[str, ...] = ()
    projections: Mapping[str, Tensor]

    def __init__(self, encoder: SentenceEncoder, exits: Sequence[int] = ()) -> None:
        super().__init__()
        self.model, self.pooling, self.projections = encoder.model, encoder.pooling, {}
        self.exits = tuple(exits)
        for module in self.model.modules():
            if isinstance(
                module, nn.Dropout
            ):  # the teacher's vectors are exact: noise in the student's would only blur the way there
                module.p = 0.0

    def forward(self, batch: SentenceBatch) -> Float[Tensor, "... N D"]:
        """Return the vectors of the batch's texts; with exits those of each, [E, N, D]."""
        device = self.model.device
        mask = batch.attention_mask.to(device)
        names = projection_names(self.model, self.reads)
        with states_after(self.model, self.exits) as at_exits, projected(self.model, [*names.values()]) as made:
            last = self.model(input_ids=batch.input_ids.to(device), attention_mask=mask).last_hidden_state
        states = torch.stack(at_exits) if self.exits else last
        self.projections = {
            name: made[names[name]][mask.bool()] if name in names else _projected(name, states, batch, mask.bool())
            for name in self.reads
        }
        return torch.stack([self.pooling(some, mask) for some in states]) if self.exits else self.pooling(states, mask)

    def outputs(self, batch: SentenceBatch, weights: Mapping[str, Tensor] | None = None) -> Vectors:
        """Return the vectors as a teacher's outputs."""
        vectors = self(batch)
        if not self.exits:
            return Vectors(vectors, self.projections)
        return Vectors(vectors[-1], {name: states[-1] for name, states in self.projections.items()})


def _projected(name: str, states: Tensor, batch: SentenceBatch, mask: Tensor) -> Tensor:
    """Return what a loss reads of a batch's states beside their pooled vectors."""
    if name != STEP_STATES:
        return states[..., mask, :]
    assert batch.reasoned is not None, "questions bring their reasoning where a loss reads its steps"
    return batch.reasoned.states(states)


def recorded_vectors(student: TrainedModel, batch: SentenceBatch) -> Vectors:
    """Return the vectors that a batch of texts brings, and the states of its tokens where a loss reads them."""
    assert batch.teacher is not None, "the teacher was run over every text that is learned or evaluated"
    device, tokens = next(student.parameters()).device, batch.teacher_tokens
    beside = {} if tokens is None else {name: tokens.to(device) for name in student.reads}
    return Vectors(batch.teacher.to(device), beside)
