"""Our decoding, scan and counting against transformers and torch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressors.catalogue import build
from compressors.distill.loop import packing_matches
from compressors.distill.packing import Example
from compressors.measure.cost import flops_per_token, num_matmul_parameters
from compressors.measure.decode import decode
from compressors.measure.runner import TorchRunner
from compressors.prune.metrics import COSINE_METRICS
from compressors.prune.scan import WindowScan
from stages.tiny_model import FAMILIES, random_model

PROMPT = [5, 6, 7, 8, 9, 40, 41]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_equals_generate(family: str) -> None:
    model, _ = random_model(family)
    [ours] = decode(TorchRunner(model), [PROMPT], max_new_tokens=24, stop_ids=())
    theirs = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=24, min_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert ours.token_ids == theirs[0, len(PROMPT) :].tolist()


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
    assert packing_matches(model, examples, torch.device("cpu"), 1e-4) is (family != "opt")
