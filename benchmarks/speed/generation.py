"""Write answers in turns: `model.generate` on batches in data-set order, refilled batches, and those with drafts. Same prompts, batch and dtype.

python benchmarks/speed/generation.py MODEL_FOLDER [--data STYLE=QUESTIONS.jsonl ...] [--num-prompts 256] [--batch-size 32]
    [--max-new-tokens 256] [--num-recorded 64] [--precision float32]

Each style's prompts are written by every way before the next style comes. CPU seconds stand beside the clock's: another process cannot
take them. Rows: question or instruction, answer (an index where there are choices), choices.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from attar.compressors.data.prompts import chat_prompt, stop_token_ids
from attar.compressors.data.styles import STYLES, rewrite_question
from attar.compressors.models.decode import decode
from attar.compressors.models.ragged.lookup import Drafts
from attar.compressors.models.row_products import lay_out_weights
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Generation
from attar.compressors.models.slots import pad_left
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.runtime.device import pick_device, pick_dtype

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SHIPPED = Path(__file__).parents[2] / "stages/ingest/shipped/everyday.jsonl"
GENERATE, REFILLED, DRAFTED = "model.generate", "refilled batches", "refilled batches, drafts, weights laid out"
Way = Callable[[list[list[int]]], list[Generation]]


@dataclass(frozen=True)
class Turn:
    """What one way wrote for one style's prompts."""

    texts: list[Generation]
    wall_seconds: float
    cpu_seconds: float

    @property
    def num_tokens(self) -> int:
        return sum(len(text.token_ids) for text in self.texts)


def main() -> None:
    options = arguments()
    configure_process()
    ways, tokenizer = ways_of(options)
    prompts = {style: read_prompts(style, path, options, tokenizer) for style, path in options.data}
    for way in ways.values():  # warm-up
        way(next(iter(prompts.values()))[:2])
    turns: dict[str, dict[str, Turn]] = {style: {} for style in prompts}
    for index, (style, some) in enumerate(prompts.items()):
        names = list(ways)
        for name in names[index % len(names) :] + names[: index % len(names)]:
            turns[style][name] = taken(ways[name], some)
            print(f"{style}, {name}: {turns[style][name].cpu_seconds:.0f} CPU seconds", file=sys.stderr, flush=True)
    report(options, prompts, turns)


def ways_of(options: Any) -> tuple[dict[str, Way], Any]:
    """Return the ways by name. Each has a model of its own: laid out weights stay."""
    device = pick_device()
    dtype = pick_dtype(options.precision, device)
    plain, drafting = (load_model(options.folder, dtype, device).eval() for _ in range(2))
    tokenizer = load_tokenizer(options.folder)
    shape: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    shape["stop_ids"] = stop_token_ids(tokenizer, plain.generation_config)
    lay_out_weights(drafting)
    runner, drafted = TorchRunner(plain), TorchRunner(drafting)
    drafts = Drafts(drafted, options.num_drafted)
    ways: dict[str, Way] = {
        GENERATE: lambda prompts: generate(plain, prompts, **shape),
        REFILLED: lambda prompts: decode(runner, prompts, **shape),
        DRAFTED: lambda prompts: decode(drafted, prompts, drafts=drafts, **shape),
    }
    if options.num_recorded:
        shape_recorded = shape | {"num_recorded": options.num_recorded}
        name = f"as before, top {options.num_recorded} log-probabilities recorded"
        ways[name] = lambda prompts: decode(drafted, prompts, drafts=drafts, **shape_recorded)
    return ways, tokenizer


def generate(
    model: PreTrainedModel, prompts: list[list[int]], stop_ids: list[int], *, max_new_tokens: int, batch_size: int
) -> list[Generation]:
    """Generate as a user would: batches as the rows come, padded on the left, each as long as its longest answer."""
    answers = []
    for start in range(0, len(prompts), batch_size):
        ids, mask = pad_left(prompts[start : start + batch_size], model.device)
        with torch.inference_mode():
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
            answers.append(Generation(row[:end], row[end - 1] in stop_ids))
    return answers


def taken(way: Way, prompts: list[list[int]]) -> Turn:
    started, used = time.perf_counter(), time.process_time()
    texts = way(prompts)
    return Turn(texts, time.perf_counter() - started, time.process_time() - used)


def report(options: Any, prompts: dict[str, list[list[int]]], turns: dict[str, dict[str, Turn]]) -> None:
    """Print a table of the ways and a table of the styles."""
    lengths = sorted(len(prompt) for some in prompts.values() for prompt in some)
    written = [len(text.token_ids) for turn in turns.values() for text in turn[GENERATE].texts]
    print(
        f"{len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens, answers of {min(written)} to {max(written)}, "
        f"mean {sum(written) / len(written):.0f}; batch {options.batch_size}, {options.precision}, {torch.get_num_threads()} threads"
    )
    print("| way | seconds | CPU seconds | tokens/s | ratio | by CPU | same answers |\n|---|---|---|---|---|---|---|")
    bases = [turn[GENERATE] for turn in turns.values()]
    for name in next(iter(turns.values())):
        own = [turn[name] for turn in turns.values()]
        wall, cpu = (sum(getattr(turn, f"{clock}_seconds") for turn in own) for clock in ("wall", "cpu"))
        # a way may be quick by writing less: tokens a second, not seconds, are compared
        share = sum(turn.num_tokens for turn in own) / sum(turn.num_tokens for turn in bases)
        ratio = share * sum(turn.wall_seconds for turn in bases) / wall
        by_cpu = share * sum(turn.cpu_seconds for turn in bases) / cpu
        same = sum(num_same(base, turn) for base, turn in zip(bases, own, strict=True))
        rate = sum(turn.num_tokens for turn in own) / wall
        print(
            f"| {name} | {wall:.1f} | {cpu:.1f} | {rate:.0f} | {ratio:.2f} | {by_cpu:.2f} | {same} of {len(written)} |"
        )
    print("By style")
    print("| style | prompts | tokens | drafted | accepted | tokens a pass | gain of drafts by CPU | ratio by CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for style, turn in turns.items():
        own = turn[DRAFTED]
        drafted = sum(text.num_drafted for text in own.texts)
        accepted = sum(text.num_accepted for text in own.texts)
        print(
            f"| {style} | {len(own.texts)} | {own.num_tokens} | {drafted} | {accepted / max(1, drafted):.1%} "
            f"| {own.num_tokens / (own.num_tokens - accepted):.2f} | {turn[REFILLED].cpu_seconds / own.cpu_seconds:.2f} "
            f"| {turn[GENERATE].cpu_seconds / own.cpu_seconds:.2f} |"
        )


def num_same(first: Turn, second: Turn) -> int:
    return sum(a.token_ids == b.token_ids for a, b in zip(first.texts, second.texts, strict=True))


def read_prompts(style: str, path: Path, options: Any, tokenizer: Any) -> list[list[int]]:
    """Return an equal share of the prompts, in the file's order."""
    num_rows = options.num_prompts // len(options.data)
    rows = [json.loads(line) for line in path.read_text().splitlines()][:num_rows]
    prompts = []
    for row in rows:
        choices = row.get("choices", ())
        answer = row["answer"] if "answer" in row else row["instances"][0]["output"]
        answer = choices[answer] if choices and isinstance(answer, int) else str(answer)
        question = row.get("question") or row["instruction"]
        prompts.append(chat_prompt(tokenizer, rewrite_question(question, answer, choices, STYLES[style])))
    return prompts


def style_and_path(text: str) -> tuple[str, Path]:
    style, _, path = text.partition("=")
    if style not in STYLES or not path:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: STYLE=FILE, STYLE of {', '.join(STYLES)}")
    return style, Path(path)


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=style_and_path, nargs="+", default=[("general", SHIPPED)])
    parser.add_argument("--num-prompts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--num-drafted", type=int, default=8)
    parser.add_argument("--num-recorded", type=int, default=0, help="adds a row that records")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    recorded(main)
