"""Time a token of an exported mixture with 8 and with 64 experts, two chosen in both: it must not grow with their number."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from attar.compressors.export.graph import export_graph
from attar.compressors.export.runtime import OnnxRunner
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

NUM_EXPERTS = (8, 64)
NUM_CHOSEN, NUM_BLOCKS, HIDDEN, EXPERT_CHANNELS = 2, 4, 512, 512
NUM_PROMPT, NUM_STEPS, NUM_TURNS = 64, 32, 7


def exported(num_experts: int, folder: Path) -> OnnxRunner:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=1024, hidden_size=HIDDEN, num_hidden_layers=NUM_BLOCKS, num_attention_heads=8, num_key_value_heads=2,
        head_dim=64, moe_intermediate_size=EXPERT_CHANNELS, num_experts=num_experts, num_experts_per_tok=NUM_CHOSEN,
        max_position_embeddings=512,
    )  # fmt: skip
    folder.mkdir()
    write_graph(export_graph(AutoModelForCausalLM.from_config(config).eval()), folder)
    return OnnxRunner(open_session(folder))


def seconds(runner: OnnxRunner) -> tuple[float, float]:
    """Return the time of a prompt, and of a token behind it."""
    ids = torch.arange(NUM_PROMPT)[None] % 1000
    start = time.perf_counter()
    _, cache = runner.forward(ids, torch.ones_like(ids), None, last_only=True)
    prompt = time.perf_counter() - start
    cache.reserve(NUM_PROMPT + NUM_STEPS)
    start = time.perf_counter()
    for step in range(NUM_STEPS):
        mask = torch.ones(1, NUM_PROMPT + step + 1, dtype=torch.long)
        runner.forward(ids[:, step : step + 1], mask, cache, last_only=True)
    return prompt, (time.perf_counter() - start) / NUM_STEPS


def main() -> None:
    configure_process()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runners = {count: exported(count, Path(folder) / str(count)) for count in NUM_EXPERTS}
        times: dict[int, list[tuple[float, float]]] = {count: [] for count in NUM_EXPERTS}
        for _ in range(NUM_TURNS + 1):
            for count, runner in runners.items():
                times[count].append(seconds(runner))
    report({count: measured[1:] for count, measured in times.items()})  # the first turn warms up


def report(times: dict[int, list[tuple[float, float]]]) -> None:
    few = times[NUM_EXPERTS[0]]
    print(f"qwen3_moe, {NUM_BLOCKS} blocks, {NUM_CHOSEN} experts chosen, median of {NUM_TURNS} turns")
    print("| experts | prompt of 64, ms | a token, ms | a token / with 8 |\n|---|---|---|---|")
    for count, measured in times.items():
        prompt, token = (1e3 * statistics.median(values) for values in zip(*measured, strict=True))
        ratio: Any = statistics.median(own[1] / other[1] for own, other in zip(measured, few, strict=True))
        print(f"| {count} | {prompt:.1f} | {token:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    recorded(main)
