"""Teacher sources of a training: another model, or the student itself with its adapters off or with earlier weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.learned import LearnedBatch
from attar.compressors.distill.examples.packing import Batch, Example, batches
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.teachers.outputs import LiveTeacher
from attar.compressors.distill.teachers.recorded import RecordedOutputs
from attar.compressors.distill.teachers.sources import SelfRule
from attar.compressors.distill.teachers.student import Student, record_prefix
from attar.compressors.distill.teachers.trained_model import TrainedModel
from attar.compressors.models.adapted import base_alone, has_base, mixed_precision, plain_model
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.head import OutputHead
from attar.compressors.models.trained_weights import Weights, set_weights, trained_weights


class TeacherSource(Protocol):
    """Reads a batch beside the student, without gradient, and says what it makes of its learned tokens.

    `weights`: what it keeps and a checkpoint must hold; empty for one that keeps nothing. `moves`: what it says of a text changes while
    the student learns.
    """

    weights: Weights

    @property
    def moves(self) -> bool: ...

    @property
    def own_model(self) -> Any:
        """A model of its own, in memory beside the student; None where there is none."""
        ...

    def follow(self, student: Any, example: Any) -> bool:
        """Go on from the states of the student's frozen blocks, where its own model begins with them. Say whether it does."""
        ...

    def speak(self, student: TrainedModel, batch: Any) -> Any:
        """Return its outputs of a batch: distributions or states, as its kind of model gives them; see outputs.py."""
        ...

    def advance(self, student: TrainedModel, clock: Clock) -> None:
        """Follow the student, before a step."""
        ...

    def model_of(self, student: Any) -> AbstractContextManager[Any]:
        """Return a context that gives the source as a model which writes; a student with other weights inside the block."""
        ...


@dataclass
class OtherModel:
    """A model of its own, which may be of another size and width, with the student's vocabulary.

    `begins_alike`: its first blocks are the frozen ones of the student, so that it goes on from their recorded states; see `follow`.
    """

    model: TrainedModel
    is_hinted: bool = True
    weights: Weights = field(default_factory=dict)
    begins_alike: bool = False

    @property
    def moves(self) -> bool:
        return False

    @property
    def own_model(self) -> Any:
        return self.model

    @torch.no_grad()
    def speak(self, student: TrainedModel, batch: LearnedBatch) -> Any:
        with mixed_precision(self.model):
            return self.model.outputs(batch.for_teacher(is_hinted=self.is_hinted, keeps_prefix=self.begins_alike))

    def follow(self, student: Student, example: Example) -> bool:
        """Go on from the states that the student's frozen blocks give, if this model begins with them. Return whether it does.

        Of causal models alone, whose frozen blocks are run once.

        It does when all their weights are equal, the embedding's too, and both make the same of an example: some of what a block
        computes lies in the config.
        """
        own: Any = self.model
        count, student_model, teacher_model = student.first_block, plain_model(student.model), plain_model(own.model)
        if (
            not count
            or type(student_model) is not type(teacher_model)
            or count >= teacher_model.config.num_hidden_layers
        ):
            return False
        first = own.first_block
        own.first_block = count
        parts = [
            [model.get_input_embeddings(), *decoder_blocks(model)[:count]] for model in (student_model, teacher_model)
        ]
        self.begins_alike = all(map(_has_same_weights, *parts)) and torch.equal(
            *(states for reader in (student, own) for _, states in _prefix(reader, example))
        )
        if not self.begins_alike:
            own.first_block = first
        return self.begins_alike

    def advance(self, student: TrainedModel, clock: Clock) -> None:
        pass

    @contextmanager
    def model_of(self, student: Any) -> Iterator[Any]:
        yield self.model


def _has_same_weights(first: nn.Module, other: nn.Module) -> bool:
    first_weights, second_weights = first.state_dict(), other.state_dict()
    is_same = first_weights.keys() == second_weights.keys()
    return is_same and all(torch.equal(value, second_weights[name]) for name, value in first_weights.items())


def _prefix(student: Student, example: Example) -> Iterator[tuple[int, Tensor]]:
    example = replace(example, prefix=None)
    return record_prefix(student, [example], tokens_per_batch=example.num_tokens, is_packed=False)


@torch.no_grad()
def run_once(
    source: TeacherSource, student: Student, examples: Sequence[Example], *, tokens_per_batch: int, is_packed: bool
) -> Iterator[tuple[int, Float[Tensor, "T D"]]]:
    """Yield (index, a teacher's last hidden states at that example's learned tokens), of a teacher that does not move."""
    for batch in batches(examples, tokens_per_batch=tokens_per_batch, order=range(len(examples)), is_packed=is_packed):
        states = source.speak(student, batch).states["hidden"]
        for row, (index, _, _) in enumerate(batch.locations):
            yield index, states[batch.sequences == row]


def recorded_states(head: OutputHead) -> RecordedOutputs:
    """Return a model that was run once over all examples. Of it only the head is left, which makes its kept states whole distributions."""

    def outputs_of(student: TrainedModel, batch: Batch) -> LiveTeacher:
        assert batch.teacher_states is not None, "run_once goes over every example that is learned or evaluated"
        return LiveTeacher(batch.teacher_states.to(head.weight.device), head)

    return RecordedOutputs(outputs_of)


@dataclass
class StudentItself:
    """The student under a rule: its base, itself, or itself with earlier weights of what is trained. No second model in memory.

    It reads in evaluation mode: its dropout would be noise, and would draw from the student's random numbers.
    """

    rule: SelfRule
    is_hinted: bool = True
    weights: Weights = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        return self.rule.moves

    @property
    def own_model(self) -> None:
        return None

    def follow(self, student: Any, example: Any) -> bool:
        return False

    def begin(self, student: TrainedModel) -> StudentItself:
        """Keep the weights of now, where the rule keeps any. Raises ValueError for a base that is trained itself."""
        if self.rule.is_base and not has_base(getattr(student, "model", None)):
            raise ValueError(
                "the base is a teacher only under low-rank adapters or a prefix; here its own weights are trained, use start"
            )
        if self.rule.keeps:
            self.weights = trained_weights(student)
        return self

    @torch.no_grad()
    def speak(self, student: TrainedModel, batch: LearnedBatch) -> Any:
        read = batch.for_teacher(is_hinted=self.is_hinted, keeps_prefix=True)
        was_training = student.training
        student.eval()
        try:
            with self.model_of(student), mixed_precision(student):
                return student.outputs(read, self.weights)
        finally:
            student.train(was_training)

    @torch.no_grad()
    def advance(self, student: TrainedModel, clock: Clock) -> None:
        share = self.rule.share(clock)
        if not self.rule.keeps or not share:
            return
        parameters = dict(student.named_parameters())
        for name, value in self.weights.items():
            value.lerp_(parameters[name].detach().to(value.dtype), share)

    @contextmanager
    def model_of(self, student: Any) -> Iterator[Any]:
        if self.rule.is_base:
            assert has_base(student.model), "checked in begin"
            with base_alone(student.model):
                yield student
            return
        with swapped(student, self.weights) if self.weights else nullcontext():
            yield student


@contextmanager
def swapped(student: TrainedModel, weights: Weights) -> Iterator[None]:
    """Run with other weights in place of the trained ones."""
    own = trained_weights(student)
    set_weights(student, weights)
    try:
        yield
    finally:
        set_weights(student, own)
