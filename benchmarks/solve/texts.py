"""The texts of the study: what is calibrated on, by seed, and what is held out. WikiText, solutions of GSM8K, the original's own answers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import answer_tokens, chat_prompt
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.stages.artifacts.writers import stop_ids_of

WIKITEXT, GSM8K, OWN = "wikitext", "gsm8k", "own_answers"
WINDOW = 256
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Text:
    """Token ids, and how many of them are context alone."""

    ids: list[int]
    num_context: int = 1


@dataclass(frozen=True)
class Texts:
    """One draw of calibration texts, the texts that candidates are measured on, and the corpus that chooses tokens, without those."""

    calibration: list[list[int]]
    probed: list[list[int]]
    corpus: list[list[int]]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def own_answers(model: Any, tokenizer: Any, folder: Path, prompts: Sequence[list[int]], cache: Path) -> list[Text]:
    """Return the original's greedy answers; the file keeps them for a later run."""
    if not cache.exists():
        written = decode(
            TorchRunner(model),
            prompts,
            max_new_tokens=MAX_NEW_TOKENS,
            stop_ids=stop_ids_of(tokenizer, folder),
            batch_size=24,
        )
        rows = [[prompt, answer.token_ids] for prompt, answer in zip(prompts, written, strict=True)]
        cache.write_text(json.dumps(rows))
    return [Text([*prompt, *answer], len(prompt)) for prompt, answer in json.loads(cache.read_text())]


def instruction_prompts(data: Path, name: str, tokenizer: Any, count: int) -> list[list[int]]:
    tasks = [task for task in read(data / f"self_instruct/{name}.jsonl") if not task["instances"][0]["input"]]
    return [chat_prompt(tokenizer, task["instruction"]) for task in tasks[:count]]


def wiki_windows(tokenizer: Any, path: Path) -> list[list[int]]:
    ids = tokenizer(path.read_text(), add_special_tokens=False).input_ids
    return [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW, WINDOW)]


def solutions(tokenizer: Any, path: Path, limit: int) -> list[Text]:
    texts = []
    for row in read(path)[:limit]:
        prompt = chat_prompt(tokenizer, row["question"])
        texts.append(Text([*prompt, *answer_tokens(tokenizer, row["answer"])][: 2 * WINDOW], len(prompt)))
    return texts


def heldout_texts(model: Any, tokenizer: Any, folder: Path, data: Path, out: Path, count: int) -> dict[str, list[Text]]:
    """Return `count` texts of each kind that nothing was chosen or fitted on."""
    windows = wiki_windows(tokenizer, data / "wikitext2/test.txt")
    stride = max(1, len(windows) // count)
    prompts = instruction_prompts(data, "user_oriented_instructions", tokenizer, count - count // 2)
    prompts += [
        chat_prompt(tokenizer, row["question"]) for row in read(data / "gsm8k/test.jsonl")[500 : 500 + count // 2]
    ]
    return {
        WIKITEXT: [Text(window) for window in windows[::stride][:count]],
        GSM8K: solutions(tokenizer, data / "gsm8k/test.jsonl", count),
        OWN: own_answers(model, tokenizer, folder, prompts, out / f"own-heldout-{count}.json"),
    }


def calibration_pool(
    model: Any, tokenizer: Any, folder: Path, data: Path, out: Path, num_own: int
) -> dict[str, list[list[int]]]:
    """Return all texts that a seed may draw from, by kind."""
    prompts = instruction_prompts(data, "seed_tasks", tokenizer, num_own // 2)
    prompts += [
        chat_prompt(tokenizer, row["question"]) for row in read(data / "gsm8k/train.jsonl")[1000 : 1000 + num_own // 2]
    ]
    own = own_answers(model, tokenizer, folder, prompts, out / f"own-train-{num_own}.json")
    return {
        WIKITEXT: wiki_windows(tokenizer, data / "wikitext2/valid.txt"),
        GSM8K: [text.ids for text in solutions(tokenizer, data / "gsm8k/train.jsonl", 1000)],
        OWN: [text.ids for text in own],
    }


def drawn(pool: dict[str, list[list[int]]], seed: int, tokens_a_kind: int, probed_a_kind: int) -> Texts:
    """Return one seed's texts: so many tokens of each kind to calibrate on, others to measure candidates on; the rest chooses tokens."""
    draw = random.Random(seed)
    calibration: list[list[int]] = []
    probed: list[list[int]] = []
    corpus: list[list[int]] = []
    for texts in pool.values():
        order = draw.sample(texts, len(texts))
        probed += order[:probed_a_kind]
        taken = 0
        for ids in order[probed_a_kind:]:
            corpus.append(ids)
            if taken < tokens_a_kind:
                calibration.append(ids)
                taken += len(ids)
    return Texts(sorted(calibration, key=len), probed, corpus)
