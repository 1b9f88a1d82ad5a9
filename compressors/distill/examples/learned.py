"""What training asks of an example and of a batch. Of text, classes, sentence embeddings, images or a denoiser's states."""

from __future__ import annotations

from typing import Protocol, Self

from attar.compressors.distill.examples.sample_facts import SampleFacts


class LearnedExample(Protocol):
    """One thing to learn from: a sequence, a sentence, an image, a noised state."""

    @property
    def num_tokens(self) -> int:
        """What it counts toward a step's size: tokens of text, 1 of an image."""
        ...

    @property
    def facts(self) -> SampleFacts:
        """How it was drawn and judged; those of one group stay in one batch."""
        ...


class LearnedBatch(Protocol):
    """Examples as a model takes them, made by a modality."""

    @property
    def num_positions(self) -> int:
        """How many positions are learned."""
        ...

    def for_teacher(self, *, is_hinted: bool, keeps_prefix: bool) -> Self:
        """Return what a teacher reads: the batch itself where it is told nothing more."""
        ...
