"""Write answers: our refilled batches against `model.generate` on batches in data-set order. Greedy, same model, dtype, batch size and run.

python benchmarks/speed/generation.py MODEL_FOLDER [--data QUESTIONS.jsonl] [--num-prompts 256] [--batch-size 32] [--max-new-tokens 256]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from attar.compressors.data.prompts import chat_prompt, stop_token_ids
from attar.compressors.data.styles import STYLES, rewrite_question
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.slots import pad_left
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
    model, tokenizer = load_model(options.folder, dtype, device), load_tokenizer(options.folder)
    prompts = read_prompts(options, tokenizer)
    stop_ids = stop_token_ids(tokenizer, model.generation_config)
    shape = {"max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    runner = TorchRunner(model)
    with torch.inference_mode():
        generate(model, prompts[:4], stop_ids, max_new_tokens=4, batch_size=4)  # warm-up of both
        decode(runner, prompts[:4], max_new_tokens=4, stop_ids=stop_ids)
        reference, expected = timed(generate, model, prompts, stop_ids, **shape)
        ours, written = timed(decode, runner, prompts, stop_ids=stop_ids, **shape)
        rows = {"model.generate, data-set order": (reference, expected)}
        rows["ours, refilled batches"] = ours, [answer.token_ids for answer in written]
        if options.num_recorded:
            top = options.num_recorded
            recording, written = timed(decode, runner, prompts, stop_ids=stop_ids, num_recorded=top, **shape)
            rows[f"ours, top {top} log-probabilities recorded"] = recording, [answer.token_ids for answer in written]
    report(options, dtype, prompts, rows)


def generate(
    model: PreTrainedModel, prompts: list[list[int]], stop_ids: list[int], *, max_new_tokens: int, batch_size: int
) -> list[list[int]]:
    """Generate as a user would: batches as the rows come, padded on the left, each as long as its longest answer."""
    answers = []
    for start in range(0, len(prompts), batch_size):
        ids, mask = pad_left(prompts[start : start + batch_size], model.device)
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=stop_ids,
            pad_token_id=stop_ids[0],
        )
        for row in output[:, ids.shape[1] :].tolist():
            end = next((index + 1 for index, token in enumerate(row) if token in stop_ids), len(row))
            answers.append(row[:end])
    return answers


def report(options: Any, dtype: torch.dtype, prompts: list, rows: dict[str, tuple[float, list]]) -> None:
    (base_seconds, expected), (_, written), *_ = rows.values()
    lengths, answers = sorted(map(len, prompts)), sorted(map(len, written))
    print(
        f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, answers of {answers[0]} to {answers[-1]}, "
        f"mean {sum(answers) / len(answers):.0f}; batch {options.batch_size}, {dtype}, {torch.get_num_threads()} threads"
    )
    print("| way | seconds | tokens/s | ratio |\n|---|---|---|---|")
    base = sum(map(len, expected)) / base_seconds
    for name, (seconds, texts) in rows.items():
        rate = sum(map(len, texts)) / seconds
        print(f"| {name} | {seconds:.1f} | {rate:.0f} | {rate / base:.2f} |")
    same = sum(a == b for a, b in zip(expected, written, strict=True))
    print(
        f"same answers: {same} of {len(written)}; in bfloat16 near-ties fall by the shape of the batch, in float32 all are"
    )


def read_prompts(options: Any, tokenizer: Any) -> list[list[int]]:
    lines = [json.loads(line) for line in options.data.read_text().splitlines()][: options.num_prompts]
    prompts = [rewrite_question(line["question"], str(line["answer"]), (), STYLES["math"]) for line in lines]
    return [chat_prompt(tokenizer, question) for question in prompts]


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=SHIPPED)
    parser.add_argument("--num-prompts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--num-recorded", type=int, default=64, help="0 leaves the third row out")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    return parser.parse_args()


def timed(function: Any, *arguments: Any, **options: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - started, result


if __name__ == "__main__":
    recorded(main)
