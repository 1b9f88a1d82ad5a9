"""What training asks of an objective, whatever it compares: tokens, classes, sentence embeddings, images or a denoiser's states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import Fact, Route, SampleFacts
from attar.compressors.distill.losses.targets.target_ops import TargetOp
from attar.compressors.distill.losses.token_stats import ListwiseTerms, TokenStats
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.losses.weights.token_weights import Statistic

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)
ViewsT_contra = TypeVar("ViewsT_contra", contravariant=True)
PartT_co = TypeVar("PartT_co", covariant=True)
# Kinds of views that causal text gives: log-probabilities of tokens, and hidden states. Another modality names its own.
DISTRIBUTIONS, STATES = "distributions", "states"


@dataclass(frozen=True)
class Terms:
    """A loss at each of N positions, and the positions that count. What does not count adds nothing, in value or gradient.

    `carried`: a sum that adds its gradient and no value, for a loss over several positions whose value stands at one of them.
    """

    values: Float[Tensor, "N"]
    mask: Bool[Tensor, "N"]
    carried: Float[Tensor, "N"] | None = None


class MeanOne(Protocol):
    """A weight that is divided by its mean over what is routed of an optimizer step."""

    def step_sums(
        self, samples: Sequence[SampleFacts], route: Route, entropies: Callable[[], TokenStats]
    ) -> tuple[float, float]:
        """Return the sum of the weights of one batch and how many there are. `entropies`: statistics with the teacher's."""
        ...


class SlopeSource(Protocol):
    """A loss over several tokens at once: its slopes in their log-probabilities are taken from the whole batch first."""

    @property
    def anchor(self) -> TargetOp | None:
        """The target whose log-probabilities of the batch's tokens it reads."""
        ...

    def slopes(self, stats: TokenStats, anchor: Float[Tensor, "N"] | None) -> ListwiseTerms: ...


@dataclass(frozen=True, kw_only=True)
class Requires:
    """What an objective needs before it can give terms. Asked where a recipe loads, where rows are read, and by the loop.

    `views`: the kind that it reads. `sources`: whose views. `is_whole`: recorded candidates of the teacher with a rest do not do.
    `projections`: of the last block, beside hidden states. `facts`: of the sequences. `statistics`: of a batch's tokens, before
    its first loss. `means`: weights to be divided by their mean over the step. `route`: which sequences it is for. `vocabulary`: whether
    part of the vocabulary can stand for all: sums over it can, single entries' densities and whole distributions cannot.
    `compares_numbers`: vectors one number with another, so that they must be of one width and order.
    """

    views: str = DISTRIBUTIONS
    sources: frozenset[ViewName] = frozenset()
    is_whole: bool = False
    projections: tuple[str, ...] = ()
    facts: frozenset[Fact] = frozenset()
    statistics: frozenset[Statistic] = frozenset()
    means: tuple[tuple[MeanOne, Route], ...] = ()
    slopes: SlopeSource | None = None
    route: Route = "all"
    vocabulary: Literal["sums", "densities", "whole"] = "whole"
    compares_numbers: bool = False


class Objective(Protocol[BatchT_contra, ViewsT_contra]):
    """A loss over batches of one type by views of one kind. It never averages: `reduction.py` masks, sums and divides."""

    @property
    def requires(self) -> Requires: ...

    def num_terms(self, batch: BatchT_contra) -> int:
        """Return how many terms a batch has: tokens, sequences, groups, chunks, images. A route does not lessen it."""
        ...

    def terms(self, views: ViewsT_contra) -> Terms:
        """Return the terms of one part of a batch. Only the student's views carry a gradient."""
        ...

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        """Return its measure on given text, toward sources that do not move; None where given text says nothing."""
        ...


class Observed(Protocol[PartT_co]):
    """A batch's views of one kind, handed out in parts that fit into memory."""

    def total(self, objectives: Mapping[str, Objective], loss_of: Callable[[PartT_co], Tensor]) -> Tensor:
        """Return the sum of `loss_of` over the parts, with its gradient. The objectives say what must be known before."""
        ...


@dataclass(frozen=True)
class Whole:
    """Views that fit into memory at once."""

    views: object

    def total(self, objectives: Mapping[str, Objective], loss_of: Callable[..., Tensor]) -> Tensor:
        return loss_of(self.views)


def projections_read(objectives: Collection[Objective]) -> tuple[str, ...]:
    """Return the projections of the last block that some objectives read."""
    return tuple(dict.fromkeys(name for objective in objectives for name in objective.requires.projections))
