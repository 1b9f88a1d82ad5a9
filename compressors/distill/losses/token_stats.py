"""What is known of each token of a batch beyond its distribution. Its sequence, how it was drawn and rewarded, how uncertain it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.compressors.distill.examples.sample_facts import SampleFacts


@dataclass(frozen=True)
class ListwiseTerms:
    """Terms of a loss over groups or chunks. Its slope in each token's log-probability, and each loss at one marked token."""

    slopes: Float[Tensor, "N"]
    values: Float[Tensor, "N"]
    is_first: Bool[Tensor, "N"]


@dataclass(frozen=True)
class TokenStats:
    """Of N tokens: which sequence each lies in, and what `objectives` asked for. All without gradient, nats where it is a logarithm.

    `samples`: facts of each sequence. `own_logprobs`: of the next token under the student, `is_first_choice` where it is its
    likeliest. `means`: of a weight that is divided by its mean over the step, by (weight, route). `listwise`: by objective.
    `has_recorded`: of tokens with a recorded teacher, where that is who teaches.
    """

    sequences: Int[Tensor, "N"]
    samples: tuple[SampleFacts, ...]
    student_entropy: Float[Tensor, "N"] | None = None
    teacher_entropy: Float[Tensor, "N"] | None = None
    own_logprobs: Float[Tensor, "N"] | None = None
    is_first_choice: Bool[Tensor, "N"] | None = None
    means: Mapping[tuple[object, str], float] = field(default_factory=dict)
    listwise: Mapping[object, ListwiseTerms] = field(default_factory=dict)
    has_recorded: Bool[Tensor, "N"] | None = None

    def sequence_shares(self, *, of_recorded: bool) -> Float[Tensor, "N"]:
        """Return 1 / T for each token of a sequence of T. Sums over tokens are then sums of means; T may count recorded tokens alone."""
        counted = torch.ones_like(self.sequences)
        if of_recorded and self.has_recorded is not None:
            counted = self.has_recorded.long()
        lengths = torch.zeros(len(self.samples), dtype=torch.long, device=counted.device)
        lengths = lengths.index_add_(0, self.sequences, counted)
        return 1.0 / lengths.clamp(min=1)[self.sequences].float()

    def of_samples(self, values: list[float]) -> Float[Tensor, "N"]:
        """Return one number a sequence as one number a token."""
        return torch.tensor(values, dtype=torch.float32, device=self.sequences.device)[self.sequences]

    def sequence_means(self, values: Float[Tensor, "N"]) -> Float[Tensor, "S"]:
        """Return the mean over each sequence's tokens."""
        sums = values.new_zeros(len(self.samples)).index_add_(0, self.sequences, values)
        counts = torch.bincount(self.sequences, minlength=len(self.samples)).clamp(min=1)
        return sums / counts

    @property
    def old_logprobs(self) -> Float[Tensor, "N"]:
        """Log-probabilities of the drawn tokens under the policy that drew them. Raises ValueError where they were not kept."""
        logprobs = [sample.old_logprobs for sample in self.samples]
        if any(logprob is None for logprob in logprobs):
            raise ValueError(
                "a policy loss needs the log-probabilities that its tokens were drawn with: use a rollout of the student"
            )
        return torch.cat([logprob for logprob in logprobs if logprob is not None]).to(self.sequences.device)
