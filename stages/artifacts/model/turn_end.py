"""What ends an answer where the tokenizer itself does not say: the model's generation config, then its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import stop_token_ids


def with_end(tokenizer: Any, folder: Path) -> Any:
    """Return the tokenizer, its end of text taken from the model's own files where it names none."""
    if tokenizer.eos_token_id is None:
        end = next(iter(configured_ends(folder)), None)
        if end is not None and end < len(tokenizer):
            tokenizer.eos_token_id = end
    return tokenizer


def configured_ends(folder: Path) -> list[int]:
    """Return the tokens at which the model's files say that writing stops: generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ends = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        if ends is not None:
            return list(ends) if isinstance(ends, list) else [ends]
    return []


def all_ends(tokenizer: Any, folder: Path) -> list[int]:
    """Return every token that ends an answer: the configured ones first, then what the tokenizer and its chat template say."""
    ends = configured_ends(folder)
    return [*ends, *(token for token in stop_token_ids(tokenizer) if token not in ends)]
