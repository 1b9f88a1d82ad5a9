"""What students are worth as drafts for their original: acceptance, tokens a step, wall-clock gain, and whether every text stays the original's.

python benchmarks/speed/speculation.py ORIGINAL_FOLDER DRAFT_FOLDER... [--num-prompts 8] [--max-new-tokens 64] [--draft-lengths 1 2 4]
    [--precision float32]

Plain and drafted decoding take turns prompt by prompt, so that a change of load hits both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from attar.compressors.data.prompts import chat_prompt, stop_token_ids
from attar.compressors.measure.speculative import measure_speculation
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.runtime.device import pick_device, pick_dtype

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SHIPPED = Path(__file__).parents[2] / "stages/ingest/shipped/everyday.jsonl"


def main() -> None:
    options = arguments()
    configure_process()
    device = pick_device()
    dtype = pick_dtype(options.precision, device)
    original, tokenizer = load_model(options.original, dtype, device), load_tokenizer(options.original)
    questions = [json.loads(line)["question"] for line in SHIPPED.read_text().splitlines() if line]
    prompts = [chat_prompt(tokenizer, question) for question in questions[:: len(questions) // options.num_prompts]]
    prompts = prompts[: options.num_prompts]
    print(
        f"{dtype}, {torch.get_num_threads()} threads, {len(prompts)} prompts, up to {options.max_new_tokens} tokens each"
    )
    print(
        f"{'draft':<28}{'length':>7}{'accepted':>10}{'tokens/step':>13}{'gain':>7}{'tokens':>8}{'plain ms':>10}{'differ':>8}"
    )
    for folder in options.drafts:
        started = time.monotonic()
        runs = measure_speculation(
            original,
            load_model(folder, dtype, device),
            prompts,
            draft_lengths=options.draft_lengths,
            max_new_tokens=options.max_new_tokens,
            stop_ids=stop_token_ids(tokenizer, original.generation_config),
        )
        for run in runs:
            plain = 1000 * run.plain_seconds / run.num_tokens
            print(
                f"{folder.name:<28}{run.draft_length:>7}{run.acceptance_fraction:>10.1%}{run.tokens_per_step:>13.2f}{run.gain:>7.2f}"
                f"{run.num_tokens:>8}{plain:>10.1f}{len(run.differences):>8}",
                flush=True,
            )
            for difference in run.differences:
                print(f"    {difference}")
        print(f"    {time.monotonic() - started:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("drafts", type=Path, nargs="+")
    parser.add_argument("--num-prompts", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--draft-lengths", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    recorded(main)
