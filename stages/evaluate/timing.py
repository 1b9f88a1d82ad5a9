"""How long a model takes, with its spread and the conditions. Where another is given, both in turns, so that a ratio means something."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.encode.encoder import EmbeddingRunner
from attar.compressors.images.classifier import ImageRunner
from attar.compressors.measure.cost import Latency, Spread, measure_in_turns
from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.slots import pad_right
from attar.registry.artifacts.environment import machine_name
from attar.stages.evaluate.rankings import BATCH, EMBED_TIMES, IMAGE_TIMES
from attar.stages.runtime.progress import bar

NUM_TIMED_ROUNDS = 5
# Decoded in a round, and their mean taken: more of them cost more time and leave the rounds' spread, which the interval is of, as it is.
NUM_TIMED_TOKENS = 8
# Images that are timed alone in a round.
NUM_TIMED_ALONE = 8


def timed(
    runner: CausalRunner, beside: CausalRunner | None, *, vocab_size: int, num_prompt_tokens: int
) -> dict[str, Any]:
    """Return medians and quartiles of prefill and decode, and under `beside` those of the other model in the same rounds."""
    counter = bar("timing", NUM_TIMED_ROUNDS + 1, "rounds")
    with torch.inference_mode():
        latencies = measure_in_turns(
            [runner] if beside is None else [runner, beside],
            vocab_size=vocab_size,
            num_prompt_tokens=num_prompt_tokens,
            num_new_tokens=NUM_TIMED_TOKENS,
            num_rounds=NUM_TIMED_ROUNDS,
            on_round=counter.advance,
        )
    conditions = {
        "num_prompt_tokens": num_prompt_tokens,
        "num_rounds": NUM_TIMED_ROUNDS,
        "machine": machine_name(),
        "num_threads": torch.get_num_threads(),
    }
    others = {} if beside is None else {"beside": _numbers(latencies[1])}
    return {**conditions, **_numbers(latencies[0]), **others}


def _numbers(latency: Latency) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, spread in (("prefill_seconds", latency.prefill), ("decode_seconds_per_token", latency.decode)):
        numbers |= {name: spread.median, f"{name}_low": spread.low, f"{name}_high": spread.high}
        numbers[f"{name}_rounds"] = list(
            spread.rounds
        )  # what a gate's interval is made of, round by round beside the other's
    return numbers


def embedding_times(
    runner: EmbeddingRunner, beside: EmbeddingRunner | None, texts: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return medians and quartiles of the seconds that a text takes alone, and a batch. `beside` in the same rounds.

    A round is every text of a sample alone, then all texts in batches by length: means over texts as they are, long and short.
    """
    counter = bar("timing", NUM_TIMED_ROUNDS + 1, "rounds")
    runners = [runner] if beside is None else [runner, beside]
    rounds: list[list[tuple[float, float]]] = [[] for _ in runners]
    order = sorted(texts, key=len)
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    alone = order[:: max(1, len(order) // BATCH)]
    for _ in range(NUM_TIMED_ROUNDS + 1):  # the first warms up and is not counted
        for each, own in zip(runners, rounds, strict=True):
            single = _seconds(each, [[text] for text in alone]) / len(alone)
            own.append((single, BATCH * _seconds(each, batches) / len(order)))
        counter.advance()
    numbers = _spreads(EMBED_TIMES, rounds)
    return {
        "num_rounds": NUM_TIMED_ROUNDS,
        "machine": machine_name(),
        "num_threads": torch.get_num_threads(),
        "num_prompt_tokens": round(sum(map(len, texts)) / len(texts)),
        "texts_per_second": BATCH / numbers[0][EMBED_TIMES[1]],
        **numbers[0],
        **({} if beside is None else {"beside": numbers[1]}),
    }


def image_times(runner: ImageRunner, beside: ImageRunner | None, pixels: Float[Tensor, "N C H W"]) -> dict[str, Any]:
    """Return medians and quartiles of the seconds that an image takes alone, and a batch. `beside` in the same rounds.

    A round is some images alone, then one batch, of images again where there are fewer.
    """
    counter = bar("timing", NUM_TIMED_ROUNDS + 1, "rounds")
    runners = [runner] if beside is None else [runner, beside]
    rounds: list[list[tuple[float, float]]] = [[] for _ in runners]
    batch = pixels.repeat(-(-BATCH // len(pixels)), 1, 1, 1)[:BATCH]
    for _ in range(NUM_TIMED_ROUNDS + 1):  # the first warms up and is not counted
        for each, own in zip(runners, rounds, strict=True):
            alone = [_image_seconds(each, batch[index : index + 1]) for index in range(NUM_TIMED_ALONE)]
            own.append((sum(alone) / len(alone), _image_seconds(each, batch)))
        counter.advance()
    numbers = _spreads(IMAGE_TIMES, rounds)
    return {
        "num_rounds": NUM_TIMED_ROUNDS,
        "machine": machine_name(),
        "num_threads": torch.get_num_threads(),
        "images_per_second": BATCH / numbers[0][IMAGE_TIMES[1]],
        **numbers[0],
        **({} if beside is None else {"beside": numbers[1]}),
    }


def _spreads(names: Sequence[str], rounds: Sequence[Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
    """Return of each model the median and quartiles of its rounds, the first left out, by name."""
    numbers = []
    for own in rounds:
        spreads = [Spread.of(column) for column in zip(*own[1:], strict=True)]
        numbers.append(
            {
                key: value
                for name, spread in zip(names, spreads, strict=True)
                for key, value in ((name, spread.median), (f"{name}_low", spread.low), (f"{name}_high", spread.high))
            }
        )
    return numbers


def _image_seconds(runner: ImageRunner, pixels: Float[Tensor, "N C H W"]) -> float:
    started = time.perf_counter()
    runner.classify(pixels).cpu()  # brought here: kernels run behind the clock otherwise
    return time.perf_counter() - started


def _seconds(runner: EmbeddingRunner, batches: Sequence[Sequence[Sequence[int]]]) -> float:
    started = time.perf_counter()
    for batch in batches:
        runner.embed(*pad_right(batch, runner.device)).cpu()  # brought here: kernels run behind the clock otherwise
    return time.perf_counter() - started
