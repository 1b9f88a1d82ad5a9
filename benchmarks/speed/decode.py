"""Decode in torch and in exported graphs, batch 1, taking turns in one run, and count how often they choose the same token.

python benchmarks/speed/decode.py MODEL_FOLDER ONNX_FOLDER ... [--data ROWS.jsonl] [--num-tokens 2000] [--rounds 5]

Make the ONNX folders with a recipe of `export` and `quantize` nodes (`attar show KEY` tells where one lies); each has `model.onnx` and
a tokenizer. Agreement: the text of the data's answers and texts is read by torch and by each graph; at each token both say which comes next.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.closeness import TextCloseness, closeness
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.runner import CausalRunner, TorchRunner
from attar.compressors.models.sampling import GREEDY
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_folder import disk_bytes
from attar.stages.artifacts.onnx_session import open_session

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SHIPPED = Path(__file__).parents[2] / "stages/ingest/shipped"


def main() -> None:
    options = arguments()
    configure_process()
    torch.set_num_threads(options.threads)
    runners: dict[str, CausalRunner] = {"torch eager": TorchRunner(load_model(options.model, torch.float32))}
    sizes = {"torch eager": sum(path.stat().st_size for path in options.model.glob("*.safetensors"))}
    for folder in options.onnx:
        # in the store every artifact lies in a folder `content`, below its key
        name = folder.parent.name[:12] if folder.name == "content" else folder.name
        runners[name] = OnnxRunner(open_session(folder))
        sizes[name] = disk_bytes(folder)
    texts = read_texts(options)
    close = {
        name: closeness(runner, runners["torch eager"], texts, batch_size=1)
        for name, runner in runners.items()
        if name != "torch eager"
    }
    prompt = list(texts[0][1][: options.num_prompt_tokens])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    with torch.inference_mode():
        for _ in range(options.rounds + 1):
            for name, runner in runners.items():
                seconds[name].append(seconds_per_token(runner, prompt, options.num_new_tokens))
    report(options, seconds, sizes, close)


def seconds_per_token(runner: CausalRunner, prompt: list[int], num_new_tokens: int) -> tuple[float, float]:
    """Decode greedily from a prompt that is already read; return (wall, CPU) seconds a token."""
    slots = runner.open_slots(1, len(prompt), num_new_tokens)
    slots.fill([0], [prompt])
    token, length = prompt[-1], len(prompt) - 1
    started, used = time.perf_counter(), time.process_time()
    for step in range(num_new_tokens):
        logits = slots.step([token], [length + step])
        token = int(GREEDY.pick(logits, torch.zeros(1)))
    return (time.perf_counter() - started) / num_new_tokens, (time.process_time() - used) / num_new_tokens


def read_texts(options: Any) -> list[Pair]:
    """Return windows of the data's text until there are enough tokens; the first token of a window is context."""
    tokenizer = load_tokenizer(options.model)
    ids: list[int] = []
    for path in options.data:
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else []
        parts = [str(row.get("text") or row.get("answer", "")) for row in rows] or [path.read_text()]
        ids += tokenizer("\n\n".join(parts), add_special_tokens=False).input_ids
    ids = ids[: options.num_tokens + -(-options.num_tokens // options.window)]
    windows = [ids[start : start + options.window + 1] for start in range(0, len(ids), options.window + 1)]
    return [(window[:1], window[1:]) for window in windows if len(window) > 1]


def report(options: Any, seconds: dict, sizes: dict[str, int], close: dict[str, list[TextCloseness]]) -> None:
    base = medians(seconds["torch eager"])
    whole = next((sizes[name] for name in sizes if name != "torch eager"), 1)
    num_tokens = sum(text.num_tokens for text in next(iter(close.values()), []))
    print(f"batch 1, {options.threads} threads, {options.rounds} rounds of {options.num_new_tokens} tokens in turns,")
    print(f"prompt of {options.num_prompt_tokens}; {num_tokens} tokens compared")
    print(
        "| runner | ms a token, CPU ms | times torch, by CPU | MB | of the first graph | agreement | KL nats | perplexity ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, rounds in seconds.items():
        wall, cpu = medians(rounds)
        row = f"| {name} | {1000 * wall:.1f}, {1000 * cpu:.1f} | {base[0] / wall:.2f}, {base[1] / cpu:.2f} "
        row += f"| {sizes[name] / 1e6:.1f} | {sizes[name] / whole:.3f} |"
        if name in close:
            agreeing = sum(result.num_agreeing for result in close[name]) / num_tokens
            kl = sum(result.kl_nats for result in close[name]) / num_tokens
            rise = sum(result.loss_nats - result.original_loss_nats for result in close[name]) / num_tokens
            row += f" {agreeing:.4f} | {kl:.2g} | {math.exp(rise):.4f} |"
        print(row)


def medians(rounds: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the medians of wall and CPU seconds; the first round warms up."""
    walls, cpus = zip(*rounds[1:], strict=True)
    return statistics.median(walls), statistics.median(cpus)


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("onnx", type=Path, nargs="*")
    parser.add_argument("--data", type=Path, nargs="*", default=[SHIPPED / "everyday.jsonl", SHIPPED / "prose.txt"])
    parser.add_argument("--num-tokens", type=int, default=2000)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--num-prompt-tokens", type=int, default=64)
    parser.add_argument("--num-new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    recorded(main)
