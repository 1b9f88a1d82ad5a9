"""Which tokens of a model's tokenizer stay, for a corpus and a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.compressors.prune.vocabulary.document import Document, PieceModel, named_tokens, piece_model, token_ids
from attar.compressors.prune.vocabulary.renumber import named_ids
from attar.compressors.prune.vocabulary.scripts import in_scripts
from attar.compressors.prune.vocabulary.selection import Selection, renumbering
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.tokenizer_files import CONFIG_FILES, tokenizer_document
from attar.stages.prune.vocabulary.config import TrimVocabularyConfig
from attar.stages.prune.vocabulary.corpus import Corpus, count_tokens, template_texts


@dataclass(frozen=True)
class Words:
    """A model's tokenizer, loaded, as a document, and how it cuts."""

    tokenizer: Any
    document: Document
    pieces: PieceModel

    @staticmethod
    def of(tokenizer: Any) -> Words:
        """Read a loaded tokenizer. Raises ValueError for one that cannot be trimmed."""
        document = tokenizer_document(tokenizer)
        return Words(tokenizer, document, piece_model(document))


@dataclass(frozen=True)
class Choice:
    """The tokens that stay: old id to new, and the old ids of those with a row, in order."""

    new_ids: Mapping[int, int]
    kept_ids: list[int]
    # every token of the whole tokenizer with its id
    ids: Mapping[str, int]
    # all that the corpus uses is among them
    is_whole: bool

    @property
    def tokens(self) -> dict[str, int]:
        """The tokens that have a row, with the number of it."""
        num_kept = len(self.kept_ids)
        kept_tokens = {token: self.new_ids[index] for token, index in self.ids.items() if index in self.new_ids}
        return {token: index for token, index in kept_tokens.items() if index < num_kept}


def choose_tokens(config: TrimVocabularyConfig, folder: Path, words: Words, corpus: Corpus, rows: int) -> Choice:
    """Choose among the `rows` tokens of the model in `folder`. Raises ValueError when the number cannot be met, or nothing would go."""
    ids = token_ids(words.document, words.pieces)
    selection = Selection(words.pieces, ids, rows, frozenset(_named(folder, words)))
    counts = count_tokens(words.tokenizer, corpus.texts, "counting tokens")
    used = selection.used(counts)
    chosen = _chosen(config, selection, counts)
    new_ids = renumbering(chosen)
    kept_ids = [index for index in new_ids if index < rows]
    if len(kept_ids) == rows:
        raise ValueError(f"the corpus and what must stay take all {rows} tokens: nothing can be cut; give num_tokens")
    return Choice(new_ids, kept_ids, ids, is_whole=used <= chosen)


def _named(folder: Path, words: Words) -> set[int]:
    """Return the ids that tokenizer, config and generation config name, and those that the chat template writes."""
    configs = [read_object(folder / name) for name in CONFIG_FILES if (folder / name).exists()]
    written = count_tokens(words.tokenizer, template_texts(words.tokenizer), "reading the template")
    return named_tokens(words.document).union(written, *(named_ids(config) for config in configs))


def _chosen(config: TrimVocabularyConfig, selection: Selection, counts: Counter[int]) -> set[int]:
    frequent = {index: count for index, count in counts.items() if count >= config.min_count}
    preferred: set[int] = set()
    if config.keep_scripts:
        pieces, pattern = selection.pieces, in_scripts(config.keep_scripts)
        texts = {token: pieces.text(token) for token in pieces.ids}
        preferred = {pieces.ids[token] for token, text in texts.items() if text is not None and pattern.fullmatch(text)}
    if config.num_tokens is None:
        return selection.used({*frequent, *preferred})
    return selection.best(frequent, config.num_tokens, preferred)
