"""Our decoding, scan and counting against transformers and torch."""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from attar.compressors.catalogue import build
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.loop.heldout import packing_matches
from attar.compressors.distill.teachers.student import Student
from attar.compressors.measure.cost import flops_per_token, num_matmul_parameters
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.scan import WindowScan
from attar.stages.ingest.tiny_model import FAMILIES, random_model

PROMPT = [5, 6, 7, 8, 9, 40, 41]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_equals_generate(family: str) -> None:
    """23 prompts of 1 to 110 tokens through 4 places, so that each is refilled several times, with stops in the middle of texts."""
    model, _ = random_model(family)
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 259) for _ in range(draw.choice([1, 2, 5, 30, 70, 110]))] for _ in range(23)]
    free = generate(model, prompts, 40)
    common = Counter(token for text in free for token in set(text[3:]))
    stop_ids = [token for token, _ in common.most_common(6)]
    expected = [text[: next((i + 1 for i, token in enumerate(text) if token in stop_ids), 40)] for text in free]
    assert len({len(text) for text in expected}) > 1 and min(map(len, expected)) < 40, "answers end at different places"
    ours = decode(TorchRunner(model), prompts, max_new_tokens=40, stop_ids=stop_ids, batch_size=4)
    assert [answer.token_ids for answer in ours] == expected
    assert [answer.is_finished for answer in ours] == [text[-1] in stop_ids for text in expected]


def generate(model: PreTrainedModel, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """What transformers writes to each prompt; those of one length together, so that none is padded."""
    written: dict[int, list[int]] = {}
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for length, same in groupby(by_length, key=lambda index: len(prompts[index])):
        indices = list(same)
        output = model.generate(  # type: ignore[operator]
            torch.tensor([prompts[index] for index in indices]),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        written |= dict(zip(indices, output[:, length:].tolist(), strict=True))
    return [written[index] for index in range(len(prompts))]


def test_scan_equals_pairwise_cosines_of_hidden_states() -> None:
    model, _ = random_model("llama")
    ids = torch.tensor([PROMPT, PROMPT[::-1]])
    scan = WindowScan({name: build(COSINE_METRICS, name) for name in COSINE_METRICS})
    scan.update(model, ids, torch.ones_like(ids))
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    # the last of transformers' hidden states has been through the final norm; all others are the residual stream
    for first in range(4):
        for after in range(first + 1, 4):
            cosine = torch.cosine_similarity(hidden[first].double(), hidden[after].double(), dim=-1)
            expected = {"angular_distance": (cosine.arccos() / torch.pi).mean(), "block_influence": (1 - cosine).mean()}
            for name, value in expected.items():
                assert scan.scores(name)[first, after - first] == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "opt"])
def test_flops_equal_torchs_counter(family: str) -> None:
    model, _ = random_model(family)
    model.set_attn_implementation("eager")  # torch's counter does not know the CPU's fused attention
    num_tokens = 10
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(3, 3 + num_tokens)[None], use_cache=False)
    counted = counter.get_total_flops()
    # every token attends over all num_tokens columns: the kernel computes the masked half too
    expected = num_tokens * flops_per_token(num_matmul_parameters(model), model.config, num_tokens)
    assert counted == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_do_not_see_each_other(family: str) -> None:
    """OPT counts its positions from the attention mask, which packed rows do not have: the probe says so, and training pads instead."""
    model, _ = random_model(family)
    examples = [Example(PROMPT, [50, 51, 52]), Example(PROMPT[::-1], [60, 61])]
    assert packing_matches(Student(model.requires_grad_(False)), examples, 1e-4) is (family != "opt")
