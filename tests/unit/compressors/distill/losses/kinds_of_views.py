"""Objectives of four other kinds, with the models, batches and modality that they need: what a new kind brings, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.distributions import Distributions
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, Observed, Requires, Terms, Whole
from attar.compressors.distill.losses.views import Targets, TokenViews, ViewName
from attar.compressors.distill.teachers.outputs import LiveTeacher, Teachers
from attar.compressors.models.head import OutputHead

NUM_EXAMPLES = 24
# Share of an image's variance left at each timestep.
ALPHA_BAR = (1.0 - torch.linspace(1e-3, 0.2, 100)).cumprod(dim=0)


@dataclass(frozen=True)
class Sample:
    """One image, sentence or noisy state, with its label or timestep; whether its term counts."""

    values: Tensor
    label: int
    is_real: bool = True
    num_tokens: int = 1
    facts: SampleFacts = field(default_factory=SampleFacts)


@dataclass(frozen=True)
class SampleBatch:
    values: Tensor
    labels: Tensor
    is_real: Tensor
    num_positions: int

    @property
    def num_taught(self) -> int:
        return self.num_positions

    def for_teacher(self, *, is_hinted: bool, keeps_prefix: bool) -> SampleBatch:
        return self


@dataclass(frozen=True)
class Features:
    """A teacher's outputs that are states alone."""

    states: Mapping[str, Tensor]


@dataclass(frozen=True)
class PairViews:
    """What student, teacher and past self make of the same N samples."""

    student: Tensor
    teacher: Tensor | None
    past: Tensor | None
    batch: SampleBatch


class Model(nn.Module):
    """An encoder as training runs it, student or teacher."""

    reads: tuple[str, ...] = ()

    def __init__(self, network: nn.Module, num_classes: int = 0, width: int = 0) -> None:
        super().__init__()
        self.network = network
        self.classes = nn.Linear(width, num_classes, bias=False) if num_classes else None

    def forward(self, batch: SampleBatch) -> Tensor:
        return self.network(batch)

    @property
    def head(self) -> OutputHead:
        assert self.classes is not None
        return OutputHead(self.classes.weight)

    def outputs(self, batch: SampleBatch, weights: Mapping[str, Tensor] | None = None) -> Any:
        hidden = self(batch)
        return Features({"hidden": hidden}) if self.classes is None else LiveTeacher(hidden, self.head)


@dataclass(frozen=True)
class Samples:
    """The modality of all four: batches of samples, and views of one kind made of the models' outputs."""

    kind: str

    def at(self, step: int) -> Samples:
        return self

    def batches(
        self, examples: Sequence[Sample], order: Sequence[int], tokens_per_batch: int, *, has_teacher: bool
    ) -> Iterator[SampleBatch]:
        for start in range(0, len(order), tokens_per_batch):
            chosen = [examples[index] for index in order[start : start + tokens_per_batch]]
            labels = torch.tensor([sample.label for sample in chosen])
            is_real = torch.tensor([sample.is_real for sample in chosen])
            yield SampleBatch(torch.stack([sample.values for sample in chosen]), labels, is_real, len(chosen))

    def observed(
        self, student: Model, output: Tensor, batch: SampleBatch, teachers: Teachers, means: object
    ) -> dict[str, Observed]:
        if self.kind == DISTRIBUTIONS:
            return {DISTRIBUTIONS: Distributions(output, student.head, Targets(batch.labels), teachers)}
        past = None if teachers.past is None else teachers.past.states["hidden"]
        return {self.kind: Whole(PairViews(output, teachers.teacher_states.get("hidden"), past, batch))}


@dataclass(frozen=True)
class DecoupledKD:
    """alpha KL of (target class, rest) + beta KL within the rest, of class distributions. https://arxiv.org/abs/2203.08679"""

    alpha: float = 1.0
    beta: float = 2.0

    @property
    def requires(self) -> Requires:
        return Requires(sources=frozenset({"teacher", "labels"}), is_whole=True)

    def num_terms(self, batch: SampleBatch) -> int:
        return batch.num_positions

    def terms(self, views: TokenViews) -> Terms:
        teacher, labels = views.targets.teacher_full, views.targets.next_ids[:, None]
        assert teacher is not None
        own = nn.functional.one_hot(labels[:, 0], teacher.shape[-1]).bool()

        def parts(logprobs: Tensor) -> tuple[Tensor, Tensor]:
            target = logprobs.gather(-1, labels)
            rest = logprobs.masked_fill(own, -1e4)
            return torch.cat([target, torch.log1p(-target.exp())], dim=-1), rest.log_softmax(dim=-1)

        pairs = zip((self.alpha, self.beta), parts(teacher), parts(views.logprobs), strict=True)
        loss = sum(weight * (p.exp() * (p - q)).sum(dim=-1) for weight, p, q in pairs)
        return Terms(loss, torch.ones(len(labels), dtype=torch.bool))  # type: ignore[arg-type]

    def held_out(self, moving: Collection[ViewName]) -> DecoupledKD:
        return self


@dataclass(frozen=True)
class SimilarityRows:
    """KL of each sentence's similarities to the batch's others, softmax over a row at a temperature. https://arxiv.org/abs/2109.05105"""

    temperature: float = 0.5

    @property
    def requires(self) -> Requires:
        return Requires(views="embeddings", sources=frozenset({"teacher"}))

    def num_terms(self, batch: SampleBatch) -> int:
        return batch.num_positions

    def terms(self, views: PairViews) -> Terms:
        p, q = (self.rows(states) for states in (views.teacher, views.student))
        return Terms((p.exp() * (p - q)).sum(dim=-1), torch.ones(len(q), dtype=torch.bool))

    def rows(self, states: Tensor) -> Tensor:
        """Return log-probabilities over the other sentences."""
        unit = nn.functional.normalize(states, dim=-1)
        return ((unit @ unit.T) / self.temperature).fill_diagonal_(-1e4).log_softmax(dim=-1)

    def held_out(self, moving: Collection[ViewName]) -> SimilarityRows:
        return self


@dataclass(frozen=True)
class FeatureDistance:
    """Mean square distance between image features, of real images alone; and a share of it to the past self."""

    share: float = 0.0

    @property
    def requires(self) -> Requires:
        return Requires(views="features", sources=frozenset({"teacher", "past"} if self.share else {"teacher"}))

    def num_terms(self, batch: SampleBatch) -> int:
        return int(batch.is_real.sum())

    def terms(self, views: PairViews) -> Terms:
        target = views.teacher
        if self.share:
            target = (1.0 - self.share) * views.teacher + self.share * views.past  # type: ignore[operator]
        return Terms((views.student - target).square().mean(dim=-1), views.batch.is_real)  # type: ignore[operator]

    def held_out(self, moving: Collection[ViewName]) -> FeatureDistance:
        return FeatureDistance() if "past" in moving else self


@dataclass(frozen=True)
class ScoreMatching:
    """w(t) ||eps_S - eps_T||^2 of a denoiser's score field at x_t, w = the image's share of variance to a power."""

    power: float = 0.5

    @property
    def requires(self) -> Requires:
        return Requires(views="fields", sources=frozenset({"teacher"}))

    def num_terms(self, batch: SampleBatch) -> int:
        return batch.num_positions

    def terms(self, views: PairViews) -> Terms:
        weight = ALPHA_BAR[views.batch.labels] ** self.power
        loss = weight * (views.student - views.teacher).square().mean(dim=-1)  # type: ignore[operator]
        return Terms(loss, torch.ones(len(loss), dtype=torch.bool))

    def held_out(self, moving: Collection[ViewName]) -> ScoreMatching:
        return self


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 16))

    def forward(self, batch: SampleBatch) -> Tensor:
        return self.layers(batch.values)


class Words(nn.Module):
    """A sentence's embedding: the mean of its words'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(50, width), nn.Linear(width, 16)

    def forward(self, batch: SampleBatch) -> Tensor:
        return self.out(self.table(batch.values).mean(dim=1))


class Denoiser(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.entry, self.time, self.exit = nn.Linear(64, hidden), nn.Embedding(5, hidden), nn.Linear(hidden, 64)

    def forward(self, batch: SampleBatch) -> Tensor:
        return self.exit(torch.tanh(self.entry(batch.values) + self.time(batch.labels)))


def samples(kind: str) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    if kind == "embeddings":
        words = torch.randint(50, (NUM_EXAMPLES, 5), generator=generator)
        return [Sample(row, 0) for row in words]
    values = torch.randn(NUM_EXAMPLES, 64, generator=generator)
    return [Sample(row, index % 5, is_real=index % 3 != 0) for index, row in enumerate(values)]


def model(kind: str, seed: int, width: int) -> Model:
    torch.manual_seed(seed)
    networks = {DISTRIBUTIONS: Encoder, "embeddings": Words, "features": Encoder, "fields": Denoiser}
    return Model(networks[kind](width), *((5, 16) if kind == DISTRIBUTIONS else ()))


KINDS: dict[str, Any] = {
    DISTRIBUTIONS: DecoupledKD(),
    "embeddings": SimilarityRows(),
    "features": FeatureDistance(),
    "fields": ScoreMatching(),
}
