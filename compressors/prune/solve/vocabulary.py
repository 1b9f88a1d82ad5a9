"""Candidates of the vocabulary. What fewer tokens lose on texts that did not choose them, and what their rows save."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from attar.compressors.measure.retokenised import Aligned, first_pieces, retokenised_closeness
from attar.compressors.prune.solve.costs import PartCosts
from attar.compressors.prune.solve.items import Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class FewerTokens:
    """The old ids that stay, ascending. `pieces`: the old ids in which each token that goes is written."""

    kept_ids: Sequence[int]
    pieces: Mapping[int, Sequence[int]]

    def aligned(self, ids: Sequence[int]) -> Aligned:
        """Return a text of old ids beside the same text in kept tokens, by their new ids."""
        new_ids = {old: new for new, old in enumerate(self.kept_ids)}
        written = [self.pieces.get(index, (index,)) for index in ids]
        student_ids = [new_ids[piece] for pieces in written for piece in pieces]
        return Aligned(ids, student_ids, [len(pieces) for pieces in written], [1] * len(student_ids))

    def first_pieces(self, num_tokens: int) -> Int[Tensor, "V"]:
        """Return the new id of each old token's first piece."""
        new_ids = {old: new for new, old in enumerate(self.kept_ids)}
        firsts = {old: [new_ids[pieces[0]]] for old, pieces in self.pieces.items()}
        return first_pieces(num_tokens, new_ids, firsts)


@dataclass(frozen=True)
class OfKeptRows:
    """A whole model as the one with the kept rows of its embedding and head alone."""

    model: PreTrainedModel
    kept_ids: Int[Tensor, "K"]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def __call__(self, input_ids: Int[Tensor, "B T"], **options: object) -> SimpleNamespace:
        logits = self.model(input_ids=self.kept_ids[input_ids], **options).logits  # type: ignore[operator]
        return SimpleNamespace(logits=logits[..., self.kept_ids])


@dataclass
class ReadOnce:
    """A model that reads one text, and gives its logits again without reading it again."""

    model: PreTrainedModel
    logits: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def __call__(self, input_ids: Int[Tensor, "B T"], **options: object) -> SimpleNamespace:
        if self.logits is None:
            self.logits = self.model(input_ids=input_ids, **options).logits  # type: ignore[operator]
        return SimpleNamespace(logits=self.logits)


def vocabulary_items(
    model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    choices: Sequence[FewerTokens],
    costs: Mapping[str, PartCosts],
    on_run: Callable[[int], None] = lambda count: None,
) -> list[Item]:
    """Return an item for each number of tokens, measured on texts that did not choose them."""
    whole: int = model.get_input_embeddings().num_embeddings  # type: ignore[union-attr, assignment]
    students = [OfKeptRows(model, torch.as_tensor(list(choice.kept_ids), device=model.device)) for choice in choices]
    firsts = [choice.first_pieces(whole) for choice in choices]
    lost, num_tokens = [0.0] * len(choices), 0
    for ids in texts:
        original = ReadOnce(model)  # its logits serve every size
        for index, choice in enumerate(choices):
            aligned = choice.aligned(ids)
            result = retokenised_closeness(students[index], original, aligned, firsts[index])  # type: ignore[arg-type]
            lost[index] += result.kl_nats
        num_tokens += len(ids) - 1
        on_run(len(choices) + 1)
    return [
        _item(model, costs, whole, len(choice.kept_ids), nats / max(1, num_tokens))
        for choice, nats in zip(choices, lost, strict=True)
    ]


def _item(model: PreTrainedModel, costs: Mapping[str, PartCosts], whole: int, count: int, loss: float) -> Item:
    embedding: Any = model.get_input_embeddings().weight  # type: ignore[union-attr]
    head: Any = model.get_output_embeddings().weight  # type: ignore[union-attr]
    tables = {id(table): table.shape[1] for table in (embedding, head)}  # tied ones are one
    gone = float((whole - count) * sum(tables.values()))
    savings = {"parameters": gone, "bytes": gone * costs["bytes"].total / costs["parameters"].total}
    savings["flops"] = 2.0 * (whole - count) * head.shape[1]
    if "ms" in costs:  # what is no block is the head, all but a norm and a lookup
        savings["ms"] = (whole - count) / whole * costs["ms"].rest
    return Item(
        axis="vocabulary",
        where=f"{count:,} of {whole:,} tokens",
        loss_nats=max(0.0, loss),
        savings=savings,
        amount=count,
    )
