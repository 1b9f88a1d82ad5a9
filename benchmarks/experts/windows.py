"""Text of three kinds as windows of tokens, and the states that a model's frozen blocks make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import stopped
from attar.stages.artifacts.model.folder import load_tokenizer

WINDOW = 256
# Of the predicted tokens each fourth is learned and measured; what lies between is read.
STRIDE = 4
# kind -> its file to learn and calibrate on, and its file to measure on
TRAINING = {"prose": "wikitext2/valid.txt", "maths": "gsm8k/train.jsonl", "code": "stdlib_code/train.jsonl"}
TEST = {"prose": "wikitext2/test.txt", "maths": "gsm8k/test.jsonl", "code": "stdlib_code/test.jsonl"}


def read_windows(model: Path, data: Path, files: dict[str, str], num_tokens: int, skip: int = 0) -> Tensor:
    """Return windows of all kinds in equal shares, kind after kind. `skip`: tokens of each kind that are passed over."""
    tokenizer, share = load_tokenizer(model), num_tokens // len(files) // WINDOW
    parts = []
    for file in files.values():
        ids: list[int] = []
        for text in _texts(data / file):
            ids += tokenizer(text, add_special_tokens=False).input_ids
            if len(ids) >= skip + share * WINDOW:
                break
        ids = ids[skip : skip + share * WINDOW]
        assert len(ids) == share * WINDOW, f"{file} has too little text"
        parts.append(torch.tensor(ids).reshape(share, WINDOW))
    return torch.cat(parts)


@torch.no_grad()
def states_before(model, block_index: int, windows: Tensor, batch_size: int = 8) -> Tensor:
    """Return what a block receives."""
    states = []
    for start in range(0, len(windows), batch_size):
        with stopped(decoder_blocks(model)[block_index], is_before=True) as outputs:
            model(input_ids=windows[start : start + batch_size], use_cache=False)
        states.append(outputs[0])
    return torch.cat(states)


def _texts(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        text = path.read_text()
        yield from (text[start : start + 20_000] for start in range(0, len(text), 20_000))
        return
    for line in path.open():
        row = json.loads(line)
        yield f"{row.get('question', row.get('query'))}\n{row.get('answer', row.get('code'))}\n\n"
