"""The vocabulary of a plan: rows of embedding and head cut, the tokenizer written anew, closeness over both vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attar.compressors.measure.closeness import ratio_of_sums
from attar.compressors.measure.retokenised import retokenised_closeness
from attar.compressors.measure.same_logits import OTHER_ORDER, difference
from attar.compressors.prune.solve.vocabulary import FewerTokens
from attar.compressors.prune.vocabulary.document import piece_model, token_ids, trimmed_document
from attar.compressors.prune.vocabulary.tables import cut_vocabulary, kept_logprobs, probe_logprobs
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.model.proof import kept_logits
from attar.stages.artifacts.model.tokenizer_files import companion_bytes, tokenizer_document
from attar.stages.prune.vocabulary.pieces_proof import check_tokens
from attar.stages.prune.vocabulary.tokenizer_folder import write_trimmed_tokenizer
from attar.stages.scan.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PlannedVocabulary:
    """The tokens that a plan keeps, or all of them."""

    tokens: FewerTokens
    num_tokens: int

    @staticmethod
    def of(scan: Path, size: int | None, num_tokens: int) -> PlannedVocabulary:
        """Return what the scan recorded for a size; None: everything stays."""
        return PlannedVocabulary(
            FewerTokens(range(num_tokens), {}) if size is None else read_vocabulary(scan, size), num_tokens
        )

    @property
    def is_whole(self) -> bool:
        """Whether every token stays."""
        return len(self.tokens.kept_ids) == self.num_tokens

    def cut(self, model: PreTrainedModel) -> Tensor:
        """Cut the rows in place and return the logits on the proof's prompts. They must be the whole head's, renormalised."""
        expected = kept_logprobs(model, self.tokens.kept_ids)
        cut_vocabulary(model, self.tokens.kept_ids)
        error = difference(expected, probe_logprobs(model))
        if not error <= OTHER_ORDER.get(model.dtype, 5e-2):
            raise ValueError(
                f"prune: {type(model).__name__}: the kept tokens' log-probabilities are {error:.2g} of the largest apart after the cut"
            )
        return kept_logits(model, "prune")

    def write_tokenizer(self, source: Path, content: Path) -> Facts:
        """Write the tokenizer without the other tokens beside the model; return the facts that change by it."""
        document = tokenizer_document(load_tokenizer(source))
        pieces = piece_model(document)
        ids = token_ids(document, pieces)
        # added tokens that the model has no rows for stay behind those that it has
        beyond = sorted(index for index in ids.values() if index >= self.num_tokens)
        new_ids = {old: new for new, old in enumerate([*self.tokens.kept_ids, *beyond])}
        write_trimmed_tokenizer(source, content, trimmed_document(document, pieces, new_ids), new_ids)
        check_tokens(
            load_tokenizer(content), {token: new_ids[index] for token, index in ids.items() if index in new_ids}
        )
        return {"companion_bytes": companion_bytes(content)}

    def measured_nats(
        self, model: PreTrainedModel, original: PreTrainedModel, rows: Sequence[Sequence[int]]
    ) -> dict[str, float]:
        """Return what the model lacks of the original, in nats a token, with its 95% interval over the rows."""
        firsts = self.tokens.first_pieces(self.num_tokens)
        texts = [retokenised_closeness(model, original, self.tokens.aligned(row), firsts) for row in rows]
        estimate = ratio_of_sums([text.kl_nats for text in texts], [text.num_tokens for text in texts])
        return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
