"""Losses of a retriever that thinks in latent tokens. A question with its reasoning teaches the question without.

The explicit view is the question with its reasoning, the latent view the question behind K latent tokens, both by the same weights. Beside
the contrast of the latent view (`pair_contrast`) the method adds three terms, over the R texts of a micro-batch:

    L = CE(q) + CE(t) + 10 KL(softmax(t . p / T) || softmax(q . p / T)) + 0.1 KL(softmax(s_k . p / S) || softmax(z_k . p / S))

with q and t the latent and explicit vectors, z_k the states of the latent tokens, s_k those of the steps, all of length one. What the explicit
view says is a constant in both KL: it learns by its own contrast alone. https://arxiv.org/abs/2603.01425
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.reasoning import STEP_STATES
from attar.compressors.distill.examples.sample_facts import Fact
from attar.compressors.distill.examples.sentences import SentenceBatch
from attar.compressors.distill.losses.divergences.kullback import kl
from attar.compressors.distill.losses.embeddings.views import EMBEDDINGS, EmbeddingViews, refuse_temperature
from attar.compressors.distill.losses.objective import Objective, Requires, Terms
from attar.compressors.distill.losses.views import ViewName

# Sides of a row: the question behind latent tokens, the text that answers it, the question with its reasoning.
LATENT, TEXT, EXPLICIT = 0, 1, 2
REASONED: frozenset[Fact] = frozenset({"pairs", "reasoning"})


@dataclass(frozen=True)
class ReasonedContrast:
    """Cross-entropy of the explicit view's own text among all of the micro-batch, in nats: softmax of cosine / temperature."""

    temperature: float = 0.02

    def __post_init__(self) -> None:
        refuse_temperature(self.temperature)

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, facts=REASONED)

    def num_terms(self, batch: SentenceBatch) -> int:
        return _num_questions(batch)

    def terms(self, views: EmbeddingViews) -> Terms:
        scores = _unit(views, EXPLICIT) @ _unit(views, TEXT).T / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        return _terms(nn.functional.cross_entropy(scores, own, reduction="none"))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self


@dataclass(frozen=True)
class ReasonedScores:
    """KL of a question's similarities to the micro-batch's texts, explicit view to latent, in nats: softmax of cosine / temperature."""

    temperature: float = 0.02

    def __post_init__(self) -> None:
        refuse_temperature(self.temperature)

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, facts=REASONED)

    def num_terms(self, batch: SentenceBatch) -> int:
        return _num_questions(batch)

    def terms(self, views: EmbeddingViews) -> Terms:
        texts = _unit(views, TEXT)
        return _terms(_kl(_unit(views, EXPLICIT), _unit(views, LATENT), texts, self.temperature))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self


@dataclass(frozen=True)
class ReasonedSteps:
    """KL of similarities to the micro-batch's texts, each step of the reasoning to its latent token, in nats.

    Softmax of cosine / temperature; the mean over the latent tokens. A question whose reasoning was cut away has none.
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        refuse_temperature(self.temperature)

    @property
    def requires(self) -> Requires:
        return Requires(views=EMBEDDINGS, facts=REASONED, projections=(STEP_STATES,))

    def num_terms(self, batch: SentenceBatch) -> int:
        if batch.reasoned is None or _num_questions(batch) == 0:
            return 0
        return int(batch.reasoned.has_steps.sum())

    def terms(self, views: EmbeddingViews) -> Terms:
        if views.steps is None or views.has_steps is None:
            raise ValueError("reasoned_steps reads states of latent tokens and of steps, but the batch brings none")
        latents, steps = nn.functional.normalize(views.steps.float(), dim=-1)
        values = _kl(steps, latents, _unit(views, TEXT), self.temperature).mean(dim=-1)
        return Terms(values, views.has_steps.to(values.device) & (len(values) > 1))

    def held_out(self, moving: Collection[ViewName]) -> Objective | None:
        return self


def _num_questions(batch: SentenceBatch) -> int:
    """Return how many questions with a reasoning there are; of a single one every similarity is the largest."""
    count = 0 if batch.reasoned is None or batch.similarities is None else len(batch.similarities)
    return count if count > 1 else 0


def _terms(values: Float[Tensor, "R"]) -> Terms:
    return Terms(values, torch.full_like(values, len(values) > 1, dtype=torch.bool))


def _unit(views: EmbeddingViews, side: int) -> Float[Tensor, "R D"]:
    return nn.functional.normalize(views.side(side, "a loss of reasoned questions"), dim=-1)


def _kl(
    teacher: Float[Tensor, "*R D"], student: Float[Tensor, "*R D"], texts: Float[Tensor, "R D"], temperature: float
) -> Float[Tensor, "*R"]:
    """Return KL(teacher || student) over the texts. The teacher's scores are constant, in its own vectors and in the texts."""
    target = (teacher @ texts.T / temperature).detach().log_softmax(dim=-1)
    scores = (student @ texts.T / temperature).log_softmax(dim=-1)
    return kl(target, scores)
