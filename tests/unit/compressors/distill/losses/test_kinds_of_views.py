"""The protocol carries classes, sentence embeddings, images and a denoiser's states: each learns through the same loop and reduction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.compressors.denoise.diffusion import Diffusion
from attar.compressors.denoise.transformer import DiffusionTransformer
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.heldout import look_at
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.distributions import Distributions
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.objective import DISTRIBUTIONS, Observed, Requires, Terms, Whole
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import Targets, TokenViews, ViewName
from attar.compressors.distill.losses.weights.coefficients import LinearRamp, SwitchDivergence
from attar.compressors.distill.teachers.outputs import LiveTeacher, Teachers
from attar.compressors.distill.teachers.parties import OtherModel, StudentItself
from attar.compressors.distill.teachers.sources import Ema
from attar.compressors.models.head import OutputHead
from tests.builders import schedule_of, trainer_of

NUM_EXAMPLES, NUM_STEPS = 24, 40


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

    diffusion: Diffusion
    power: float = 0.5

    @property
    def requires(self) -> Requires:
        return Requires(views="fields", sources=frozenset({"teacher"}))

    def num_terms(self, batch: SampleBatch) -> int:
        return batch.num_positions

    def terms(self, views: PairViews) -> Terms:
        weight = self.diffusion.alpha_bar[views.batch.labels] ** self.power
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
        self.model = DiffusionTransformer(width=width, num_blocks=1, num_heads=2)
        nn.init.normal_(self.model.exit.weight, std=0.2)  # zero at first, as published: a field to learn from is none

    def forward(self, batch: SampleBatch) -> Tensor:
        return self.model(batch.values, batch.labels, torch.zeros_like(batch.labels))


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
    "fields": ScoreMatching(Diffusion()),
}


def run_of(kind: str, objective: Any, size: int = NUM_EXAMPLES, *, with_past: bool = False, **more: Any) -> Any:
    student, rows = model(kind, 0, 12), samples(kind)
    parties: dict[str, Any] = {"teacher": OtherModel(model(kind, 1, 20).requires_grad_(False).eval())}  # type: ignore[arg-type]
    if with_past:
        parties["past"] = StudentItself(Ema(decay=0.5)).begin(student)  # type: ignore[arg-type]
    steps = Steps(lambda epoch: range(NUM_EXAMPLES), rows, schedule_of(NUM_STEPS, tokens_per_micro_batch=size))  # type: ignore[arg-type]
    reduction = Reduction({"own": objective}, {"own": 1.0}, **more)
    return trainer_of(student, rows, steps, reduction, modality=Samples(kind), parties=parties)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_down_through_the_loop_and_is_measured_by_itself(kind: str) -> None:
    run = run_of(kind, KINDS[kind])
    before = look_at(run, samples(kind))  # type: ignore[arg-type]
    losses = [record.losses["own"] for record in run.run()]
    after = look_at(run, samples(kind))  # type: ignore[arg-type]
    assert len(losses) == NUM_STEPS and losses[-1] < 0.5 * losses[0]
    assert before.measure == pytest.approx(losses[0], rel=1e-5)
    assert after.measure is not None and after.measure < losses[-1]


# similarity rows are over a batch's own sentences: a smaller batch is another loss
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embeddings"])
def test_the_reduction_masks_and_divides_by_the_terms_of_the_step_however_it_is_split(kind: str) -> None:
    whole, split = (next(run_of(kind, KINDS[kind], size).run()) for size in (NUM_EXAMPLES, 5))
    assert split.losses["own"] == pytest.approx(whole.losses["own"], rel=1e-5)
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    run = run_of(kind, KINDS[kind])
    (batch,) = run.modality.batches(run.examples, range(NUM_EXAMPLES), NUM_EXAMPLES, has_teacher=True)
    with torch.no_grad():
        own, other = (side.outputs(batch) for side in (run.plain_student, run.parties["teacher"].model))
        if kind == DISTRIBUTIONS:
            targets = Targets(batch.labels, teacher_full=other.logprobs(slice(None)))
            terms = KINDS[kind].terms(TokenViews(own.logprobs(slice(None)), targets))
        else:
            terms = KINDS[kind].terms(PairViews(own.states["hidden"], other.states["hidden"], None, batch))
    assert int(terms.mask.sum()) == KINDS[kind].num_terms(batch) == (16 if kind == "features" else NUM_EXAMPLES)
    assert whole.losses["own"] == pytest.approx(float(terms.values[terms.mask].mean()), rel=1e-5)


def test_the_same_schedules_change_them() -> None:
    """A field of a loss of another kind ramps, and a divergence over classes is switched, as those of tokens are."""
    ramp = LinearRamp(parameter="power", start=0.0, end=2.0, by="step")
    ramped, last = run_of("fields", KINDS["fields"], schedules={"own": (ramp,)}), ScoreMatching(Diffusion(), power=2.0)
    assert ramped.measure.objectives["own"] == last
    first = next(ramped.run()).losses["own"]
    assert first == pytest.approx(next(run_of("fields", ScoreMatching(Diffusion(), power=0.05)).run()).losses["own"])
    classes = Distil(divergence=ForwardKL())
    switch = SwitchDivergence(to=ReverseKL(), at_fraction=0.5)
    run = run_of(DISTRIBUTIONS, classes, schedules={"own": (switch,)})
    run.step = NUM_STEPS - 1
    reverse = run_of(DISTRIBUTIONS, Distil(divergence=ReverseKL()))
    assert next(run.run()).losses == next(reverse.run()).losses != next(run_of(DISTRIBUTIONS, classes).run()).losses


def test_the_same_teachers_teach_them() -> None:
    """A past self by its rule beside another model; looks at held-out samples do not move with it."""
    run = run_of("features", FeatureDistance(share=0.3), with_past=True)
    before = look_at(run, run.examples)
    run.parties["past"].weights = {name: 3.0 * value for name, value in run.parties["past"].weights.items()}
    after = look_at(run, run.examples)
    assert after.measure == before.measure and after.losses["own"] != pytest.approx(before.losses["own"], rel=1e-3)
    losses = [record.losses["own"] for record in run.run()]
    assert losses[-1] < 0.5 * losses[0]


def test_views_that_a_modality_has_not_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="objective 'own' reads fields; known here: features"):
        next(run_of("features", KINDS["fields"]).run())
