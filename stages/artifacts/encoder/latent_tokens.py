"""Latent tokens in an encoder's folder: words of its tokenizer, rows of its embedding, and the beginning of its prompts.

The prompts say how many there are and before which texts they stand, so that sentence-transformers puts them there too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from attar.compressors.encode.latent_tokens import add_latent_rows
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.encoder.modules_file import SentenceForm
from attar.stages.artifacts.model.tokenizer_files import without_rows
from attar.stages.contract import StageConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME, PATTERN = "[LATENT_{}]", re.compile(r"\[LATENT_\d+\]")


class LatentTokens(StageConfig):
    """Tokens of no word that stand before texts, in which a retriever thinks."""

    num_tokens: int = Field(ge=1, le=64)
    """How many stand before a text; each is a row of the embedding, and learns with the rest."""

    texts: Literal["all", "questions"] = "all"
    """Before which texts they stand: questions and texts of a corpus, as in LaSER, or questions alone, so that a corpus stays as it is."""


def latent_names(count: int) -> list[str]:
    """Return the names of latent tokens, in the order in which they stand."""
    return [NAME.format(index + 1) for index in range(count)]


def num_latent_tokens(form: SentenceForm) -> int:
    """Return how many latent tokens stand before a question."""
    return len(PATTERN.findall(form.prompts[0]))


def with_latent_tokens(form: SentenceForm, latent: LatentTokens | None, stored: SentenceForm | None) -> SentenceForm:
    """Return the form with latent tokens first in its prompts. They are those asked for, else the folder's own.

    A space behind them would be part of the first word for some tokenizers. Raises ValueError for another number than the folder has.
    """
    num_stored = num_latent_tokens(stored) if stored is not None else 0
    if latent is not None and num_stored not in (0, latent.num_tokens):
        raise ValueError(
            f"model.latent.num_tokens is {latent.num_tokens}, but the folder has {num_stored} latent tokens; accepted: {num_stored}, or latent: null"
        )
    count = num_stored if latent is None else latent.num_tokens
    if not count:
        return form
    is_before_texts = bool(stored and PATTERN.search(stored.prompts[1])) if latent is None else latent.texts == "all"
    names = "".join(latent_names(count))
    query, document = without_latent_tokens(form.prompts)
    document = names + document if is_before_texts else document
    return form.with_prompts(names + query, document if document != form.prompts[1] else None)


def without_latent_tokens(prompts: tuple[str, str]) -> tuple[str, str]:
    """Return an encoder's prompts without latent tokens: what its explicit view of a text begins with."""
    query, document = (PATTERN.sub("", prompt) for prompt in prompts)
    return query, document


def refuse_too_many(count: int, max_tokens: int, num_special: int, field: str, limit: str) -> None:
    """Raise ValueError where latent tokens and the tokenizer's own leave a text no token. `field` and `limit` name the two in the refusal."""
    room = max_tokens - num_special - 1
    if count > room:
        own = f", of which {num_special} are the tokenizer's own" if num_special else ""
        raise ValueError(
            f"{field} is {count}, but {limit} is {max_tokens}{own}: no token would be left for a text; accepted: "
            f"{f'1 to {room}' if room > 0 else 'none'}"
        )


def refuse_lost_words(form: SentenceForm, tokenizer: Any) -> None:
    """Raise ValueError where prompts name latent tokens that the tokenizer has not. What their rows learned would be lost."""
    words = tokenizer.get_vocab()
    if lost := [name for name in PATTERN.findall("".join(form.prompts)) if name not in words]:
        raise ValueError(
            f"the folder's prompts begin with {lost[0]}, which is no token of its tokenizer; accepted: the tokenizer that the model was saved with"
        )


def add_latent_tokens(model: PreTrainedModel, tokenizer: Any, count: int) -> None:
    """Make latent tokens words of a tokenizer and rows of its model, where they are none yet. Raises ValueError for words without rows."""
    from tokenizers import AddedToken  # there since the model is

    names = latent_names(count)
    if not set(names) - set(tokenizer.get_vocab()):
        return
    if beyond := without_rows(tokenizer):
        raise ValueError(
            f"model.latent.num_tokens is {count}, but the tokenizer has {len(beyond)} tokens that the model has no row for; accepted: latent: null"
        )
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    add_latent_rows(model, tokenizer.convert_tokens_to_ids(names), tokenizer.mask_token_id)


def grown(facts: Facts, count: int, num_words: int) -> Mapping[str, Any]:
    """Return an encoder's facts as they will be with so many words beside the `num_words` of its tokenizer."""
    num_rows = max(num_words + count, int(facts["vocab_size"]))
    width = int(facts["hidden_size"])
    return {
        **facts,
        "vocab_size": num_rows,
        "num_parameters": int(facts["num_parameters"]) + (num_rows - int(facts["vocab_size"])) * width,
    }
