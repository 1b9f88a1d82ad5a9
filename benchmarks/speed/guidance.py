"""Guided decoding: one pass with adapters against two passes, and both against the plain model. Greedy, one model, interleaved.

python benchmarks/speed/guidance.py MODEL_FOLDER [--adapter FOLDER] [--adapter-kind cross] [--batch-size 1] [--num-new-tokens 64] [--rounds 5]

Speed does not depend on what adapters learned: without --adapter they are made on the spot.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from attar.compressors.catalogue import build
from attar.compressors.guidance.adapters import GuidanceAdapters, ScaleRange, build_adapters
from attar.compressors.guidance.catalogue import GUIDANCE_ADAPTERS
from attar.compressors.guidance.two_pass import GuidedPrompt, TwoPassRunner
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import SlotSource, TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.guidance_files import load_guidance
from attar.stages.artifacts.model.folder import load_model
from attar.stages.runtime.device import pick_device, pick_dtype

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SCALE = 2.0


def main() -> None:
    options = arguments()
    configure_process()
    device = pick_device()
    dtype = pick_dtype(options.precision, device)
    model = load_model(options.folder, dtype, device)
    adapters = made_adapters(options, model)
    adapters.attach(model)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(
        100, model.config.vocab_size, (options.batch_size, options.num_prompt_tokens), generator=generator
    ).tolist()
    # the other branch is as long: it sees a negative prompt, or the question without its context
    guided = [GuidedPrompt(prompt, prompt[::-1], SCALE) for prompt in prompts]
    counted = {
        name: CountedSource(TorchRunner(model)) for name in ("plain", "one pass", "two passes", "its other pass")
    }
    pair = TwoPassRunner(counted["two passes"], counted["its other pass"], options.num_prompt_tokens)
    ways = {
        "plain": (counted["plain"], prompts, None),
        "one pass with adapters": (counted["one pass"], prompts, SCALE),
        "two passes": (pair, guided, None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_index in range(options.rounds + 1):
        for name, (source, texts, scale) in ways.items():
            with torch.inference_mode(), adapters.at(scale):
                spent = decode_seconds(source, texts, options.num_new_tokens)
            if round_index:  # the first one warms up
                seconds[name].append(spent)
    report(options, dtype, adapters, model, seconds, counted)


def decode_seconds(source: SlotSource, texts: list[Any], num_new_tokens: int) -> float:
    """Time the tokens after the first: reading the prompt is left out, by taking a run of one token away."""
    times = []
    for count in (1, num_new_tokens + 1):
        started = time.perf_counter()
        decode(source, texts, max_new_tokens=count, stop_ids=(), batch_size=len(texts))
        times.append(time.perf_counter() - started)
    return times[1] - times[0]


class CountedSource:
    """A source of slots that remembers how many bytes of cache the last ones held."""

    def __init__(self, runner: TorchRunner) -> None:
        self.runner, self.slots = runner, None

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Any:
        self.slots = self.runner.open_slots(num_rows, num_prompt, num_new)
        return self.slots

    @property
    def cache_bytes(self) -> int:
        layers = self.slots._layers
        return sum(states.numel() * states.element_size() for layer in layers for states in (layer.keys, layer.values))


def made_adapters(options: Any, model: PreTrainedModel) -> GuidanceAdapters:
    if options.adapter is not None:
        return load_guidance(options.adapter, model)
    torch.manual_seed(0)
    adapters = build_adapters(model, build(GUIDANCE_ADAPTERS, options.adapter_kind), ScaleRange(low=1.0, high=3.0))
    for parameter in adapters.parameters():  # away from zero, so that one pass is not the plain one
        torch.nn.init.normal_(parameter, std=0.02)
    return adapters.eval().requires_grad_(False)


def report(
    options: Any,
    dtype: torch.dtype,
    adapters: GuidanceAdapters,
    model: PreTrainedModel,
    seconds: dict[str, list[float]],
    counted: dict[str, CountedSource],
) -> None:
    share = sum(p.numel() for p in adapters.parameters()) / sum(p.numel() for p in model.parameters())
    print(
        f"batch {options.batch_size}, prompts of {options.num_prompt_tokens} tokens, {options.num_new_tokens} new ones, {dtype}, "
        f"{torch.get_num_threads()} threads, median of {options.rounds} interleaved rounds; adapters are {share:.1%} of the model"
    )
    caches = {
        "plain": counted["plain"].cache_bytes,
        "one pass with adapters": counted["one pass"].cache_bytes,
        "two passes": counted["two passes"].cache_bytes + counted["its other pass"].cache_bytes,
    }
    print("| way | ms a token | speed / two passes | cache MB | cache / two passes |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        # ratios are taken within a round, so that load from outside hits both sides
        ratio = statistics.median(two / own for two, own in zip(seconds["two passes"], times, strict=True))
        ms = 1e3 * statistics.median(times) / options.num_new_tokens
        print(
            f"| {name} | {ms:.1f} | {ratio:.2f} | {caches[name] / 1e6:.1f} | {caches[name] / caches['two passes']:.2f} |"
        )


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--adapter", type=Path, help="folder of an artifact of the stage guide")
    parser.add_argument("--adapter-kind", choices=sorted(GUIDANCE_ADAPTERS), default="cross")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-prompt-tokens", type=int, default=64)
    parser.add_argument("--num-new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    recorded(main)
