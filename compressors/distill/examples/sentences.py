"""Sentences as training examples: texts that a model makes a vector or classes of, in batches of about one length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.distill.examples.reasoning import ReasonedBatch, Reasoning
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.elastic.space import Subnet


@dataclass(frozen=True)
class Sentence:
    """One text as token ids. Where the teacher was run once, its vector or logits of the text and the states that were pooled to it.

    `label`: its class, -1 where it has none. `other`: of a pair the second text, and how alike the two are; of a pair whose first text is a
    question that was thought through also the `reasoning`. `positions`: of a text whose words are tagged, the first token of each, with the
    words' `tags`; its teacher's logits are a row a word.
    """

    ids: Sequence[int]
    teacher: Float[Tensor, "... D"] | None = None
    teacher_tokens: Float[Tensor, "T D"] | None = None
    facts: SampleFacts = field(default_factory=SampleFacts)
    label: int = -1
    other: Sequence[int] = ()
    similarity: float = 0.0
    positions: Sequence[int] = ()
    tags: Sequence[int] = ()
    reasoning: Reasoning | None = None

    @property
    def labels(self) -> Sequence[int]:
        """The class of each of its positions: of its words, or its own."""
        return self.tags if self.positions else (self.label,)

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.rows))

    @property
    def rows(self) -> tuple[Sequence[int], ...]:
        """Its texts, each a row of a batch."""
        explicit = () if self.reasoning is None else (self.reasoning.ids,)
        return (self.ids, self.other, *explicit) if self.other else (self.ids,)


@dataclass(frozen=True)
class SentenceBatch:
    """Several texts, padded on the right; a position is a text. Of pairs each has two rows, or three with a reasoning, one behind the other.

    `words`: of tagged texts row and column of each word's first token. A position is a word then.
    """

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    facts: tuple[SampleFacts, ...]
    teacher: Float[Tensor, "N D"] | None = None
    teacher_tokens: Float[Tensor, "M D"] | None = None
    labels: Int[Tensor, "N"] | None = None
    similarities: Float[Tensor, "N"] | None = None
    words: Int[Tensor, "2 N"] | None = None
    # of an elastic student: those that run
    subnets: tuple[Subnet, ...] = ()
    reasoned: ReasonedBatch | None = None

    @property
    def num_positions(self) -> int:
        return len(self.input_ids) if self.words is None else self.words.shape[1]

    @property
    def num_taught(self) -> int:
        """How many texts or words a teacher speaks of."""
        return self.num_positions

    @property
    def num_labelled(self) -> int:
        """How many texts or words have a class."""
        return 0 if self.labels is None else int((self.labels >= 0).sum())

    def for_teacher(self, *, is_hinted: bool, keeps_prefix: bool) -> SentenceBatch:
        return self


def sentence_batches(
    examples: Sequence[Sentence], order: Sequence[int], tokens_per_batch: int
) -> Iterator[SentenceBatch]:
    """Yield batches of at most `tokens_per_batch` tokens, padding counted. The texts of `order` by length, so that little is padding."""
    chosen: list[int] = []
    for index in sorted(order, key=lambda index: -examples[index].num_tokens):
        width = examples[chosen[0]].num_tokens if chosen else 0
        if chosen and (len(chosen) + 1) * width > tokens_per_batch:
            yield collated([examples[index] for index in chosen])
            chosen = []
        chosen.append(index)
    if chosen:
        yield collated([examples[index] for index in chosen])


def collated(sentences: Sequence[Sentence]) -> SentenceBatch:
    """Return the batch of these texts."""
    texts = [text for sentence in sentences for text in sentence.rows]
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(list(text))
        mask[row, : len(text)] = 1
    reasonings = [sentence.reasoning for sentence in sentences if sentence.reasoning is not None]
    words = [(row, column) for row, sentence in enumerate(sentences) for column in sentence.positions]
    return SentenceBatch(
        ids,
        mask,
        tuple(sentence.facts for sentence in sentences for _ in sentence.labels),
        _together(torch.cat if words else torch.stack, [sentence.teacher for sentence in sentences]),
        _together(torch.cat, [sentence.teacher_tokens for sentence in sentences]),
        torch.tensor([label for sentence in sentences for label in sentence.labels]),
        torch.tensor([sentence.similarity for sentence in sentences]) if len(texts) > len(sentences) else None,
        torch.tensor(words).T if words else None,
        reasoned=ReasonedBatch.of(reasonings, ids.shape[1]) if reasonings else None,
    )


def _together(join: Callable[[list[Tensor]], Tensor], parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    assert len(there) in (0, len(parts)), "the teacher was run over all texts of a batch, or none"
    return join(there) if there else None
