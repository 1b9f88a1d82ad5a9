"""Smaller vocabularies as candidates: which tokens stay at each size by a corpus, and how the others are written then."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from attar.compressors.prune.solve.vocabulary import FewerTokens
from attar.compressors.prune.vocabulary.document import named_tokens, piece_model, token_ids, trimmed_document
from attar.compressors.prune.vocabulary.renumber import named_ids
from attar.compressors.prune.vocabulary.selection import Selection, renumbering
from attar.registry.artifacts.handles import DatasetArtifact
from attar.stages.artifacts.dataset.samples import calibration_samples
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.tokenizer_files import CONFIG_FILES, tokenizer_document

# The ids that stay at each size, by which a plan is carried out.
VOCABULARIES = "vocabularies.json"


def measured_vocabularies(
    folder: Path,
    data: DatasetArtifact,
    num_rows: int,
    texts: Sequence[Sequence[int]],
    fractions: Sequence[float],
    max_tokens: int,
) -> list[FewerTokens]:
    """Return a vocabulary for each share of the tokens. Every training row chooses them but `texts`, on which they are measured."""
    held = {tuple(ids) for ids in texts}
    corpus = [sample.ids for sample in calibration_samples(folder, data, sys.maxsize, max_tokens)]
    sizes = sorted({round(fraction * num_rows) for fraction in fractions})
    choices = smaller_vocabularies(
        folder, load_tokenizer(folder), num_rows, [ids for ids in corpus if tuple(ids) not in held], sizes
    )
    if not choices:
        raise ValueError(
            f"vocabulary_fractions is {list(fractions)}, but bytes, special tokens and those that configs name take more of {num_rows:,} tokens"
        )
    return choices


def smaller_vocabularies(
    folder: Path, tokenizer: Any, num_rows: int, corpus: Sequence[Sequence[int]], sizes: Sequence[int]
) -> list[FewerTokens]:
    """Return the tokens of each size that a corpus uses most, with all that they are merged from.

    Sizes below what bytes, special tokens and those that configs name take are left out.
    """
    document = tokenizer_document(tokenizer)
    pieces = piece_model(document)
    ids = token_ids(document, pieces)
    named = named_tokens(document)
    for name in CONFIG_FILES:
        if (folder / name).exists():
            named |= named_ids(read_object(folder / name))
    selection = Selection(pieces, ids, num_rows, frozenset(named))
    counts: Counter[int] = Counter()
    for text in corpus:
        counts.update(text)
    fitting = [size for size in sizes if len(selection.required) <= size < num_rows]
    return [_fewer(document, selection.best(counts, size), ids, num_rows) for size in fitting]


def _fewer(document: Mapping[str, Any], chosen: set[int], ids: Mapping[str, int], num_rows: int) -> FewerTokens:
    new_ids = renumbering(chosen)
    old_ids = {new: old for old, new in new_ids.items()}
    trimmed = Tokenizer.from_str(json.dumps(trimmed_document(document, piece_model(document), new_ids)))
    written = {
        index: [old_ids[piece.id] for piece in trimmed.model.tokenize(token)]
        for token, index in ids.items()
        if index not in new_ids
    }
    return FewerTokens([index for index in sorted(new_ids) if index < num_rows], written)


def write_vocabularies(path: Path, choices: Sequence[FewerTokens]) -> None:
    """Write the tokens of each size, and the pieces of those that go."""
    entries = {len(choice.kept_ids): [list(choice.kept_ids), sorted(choice.pieces.items())] for choice in choices}
    path.write_text(json.dumps(entries))


def read_vocabulary(scan: Path, size: int) -> FewerTokens:
    """Read the tokens of one size that the scan measured."""
    kept_ids, pieces = json.loads((scan / VOCABULARIES).read_text())[str(size)]
    return FewerTokens(kept_ids, dict(pieces))
