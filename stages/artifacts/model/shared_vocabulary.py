"""Which rows mean the same in two models of other token ids, such as a trimmed one and its original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.compressors.prune.vocabulary.tables import cut_vocabulary
from attar.stages.artifacts.model.folder import load_tokenizer, refuse_other_tokens
from attar.stages.artifacts.model.tokenizer_files import num_rows
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DOCUMENT = "tokenizer.json"


def shared_rows(folder: Path, other: Path, who: str) -> list[int] | None:
    """Return the rows of `other` that hold the tokens of `folder`, in their order; None where both number them alike.

    Raises ValueError when `other` lacks a token, or gives more than one in a hundred another id without being larger.
    """
    rows, other_rows = num_rows(folder), num_rows(other)
    if _is_one_tokenizer(folder, other):  # rows behind the tokens, which some models have more of than others
        return None if rows == other_rows else list(range(rows or 0))
    if rows == other_rows:
        refuse_other_tokens(folder, other, who)
        return None
    own, others = (load_tokenizer(path).get_vocab() for path in (folder, other))
    missing = sorted(token for token in own if token not in others)
    if missing or len(own) != rows:
        lacks = f"{who} has no token {missing[0]!r}" if missing else f"{(rows or 0) - len(own)} rows have no token"
        raise ValueError(f"vocabulary mismatch: model {rows}, {who} {other_rows} tokens, and {lacks}")
    return [others[token] for token in sorted(own, key=lambda token: own[token])]


def keep_shared(model: PreTrainedModel, rows: Sequence[int] | None, who: str) -> PreTrainedModel:
    """Return a model in memory with these rows of its vocabulary alone: its distribution is renormalised over them."""
    if rows is not None:
        whole = model.config.vocab_size
        cut_vocabulary(model, rows)
        note(f"{who}: {len(rows):,} of its {whole:,} tokens are shared; its distribution is renormalised over them")
    return model


def smallest_vocabulary(folders: Sequence[Path]) -> Path:
    """Return the folder of the model with the fewest tokens, of equal ones the last."""
    return min(reversed(folders), key=lambda folder: num_rows(folder) or 0)


def refuse_other_ids(folder: Path, other: Path, who: tuple[str, str]) -> None:
    """Raise ValueError when two models' tokenizers give a word different ids. Added tokens may bear other names.

    Two vocabularies that were trimmed to one size differ so: a mean of their rows would be of two words.
    """
    if _is_one_tokenizer(folder, other) or not ((folder / DOCUMENT).exists() and (other / DOCUMENT).exists()):
        return
    own, others = (_words(load_tokenizer(path)) for path in (folder, other))
    differing = sorted(token for token in own.keys() | others.keys() if own.get(token) != others.get(token))
    if differing:
        raise ValueError(
            f"{who[1]} and {who[0]} give {len(differing)} of {len(own)} tokens other ids, {differing[0]!r} for one: they cannot be merged"
        )


def _words(tokenizer: Any) -> dict[str, int]:
    added = tokenizer.get_added_vocab()
    return {token: index for token, index in tokenizer.get_vocab().items() if token not in added}


def _is_one_tokenizer(folder: Path, other: Path) -> bool:
    paths = (folder / DOCUMENT, other / DOCUMENT)
    return all(path.exists() for path in paths) and paths[0].read_bytes() == paths[1].read_bytes()
