"""Useful tokens per second and peak memory of a LoRA fine-tuning: ours against TRL's SFTTrainer, same model, rows, LoRA and step size.

python benchmarks/finetune.py MODEL_FOLDER ROWS.jsonl
Rows have `question` and `answer`. Each way runs in a process of its own, one after the other, `ROUNDS` times.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROUNDS = 2
NUM_ROWS, TOKENS_PER_STEP, RANK, MAX_TOKENS = 192, 4096, 16, 512
# What TRL packs into one sequence; its default is 1024.
TRL_PACKED_LENGTH = 1024
WAYS = ("attar", "trl, its defaults", "trl, packed (bfd)")


def main() -> None:
    if len(sys.argv) > 3:
        run_one(sys.argv[1], sys.argv[2], sys.argv[3])
        return
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:  # in turn, so that a slow minute of the machine hits all
            command = [sys.executable, __file__, sys.argv[1], sys.argv[2], way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[way].append(json.loads(done.stdout.splitlines()[-1]))
    print("| way | useful tokens/s | ratio | peak RSS |\n|---|---|---|---|")
    speeds = {way: max(one["tokens"] / one["seconds"] for one in runs) for way, runs in results.items()}
    for way in WAYS:
        peak = min(one["peak_bytes"] for one in results[way])
        print(f"| {way} | {speeds[way]:.0f} | {speeds[WAYS[0]] / speeds[way]:.2f} | {peak / 1e9:.2f} GB |")


def run_one(folder: str, rows_path: str, way: str) -> None:
    """Train one epoch and print tokens (prompt and answer, no padding), seconds of training alone, and peak memory."""
    with open(rows_path) as stream:
        rows = [json.loads(line) for _, line in zip(range(NUM_ROWS), stream, strict=False)]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        tokens, seconds = ours(folder, rows, Path(scratch)) if way == "attar" else theirs(folder, rows, way, scratch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens": tokens, "seconds": seconds, "peak_bytes": peak}))


def ours(folder: str, rows: list[dict[str, str]], scratch: Path) -> tuple[int, float]:
    from registry.store import Store
    from stages.contract import NoInputs
    from stages.finetune import build_run
    from stages.finetune_config import FinetuneConfig, FinetuneInputs
    from stages.ingest_data import IngestDataConfig, ingest_data
    from stages.ingest_model import IngestModelConfig, ingest_model

    store = Store(scratch)
    path = scratch / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    model = ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact
    data = ingest_data.execute(
        IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.0), NoInputs(), store
    ).artifact
    config = FinetuneConfig(
        rank=RANK,
        num_epochs=1,
        tokens_per_step=TOKENS_PER_STEP,
        tokens_per_micro_batch=1024,
        max_tokens=MAX_TOKENS,
        patience=0,
    )
    run = build_run(config, FinetuneInputs(model=model, data=(data,)), scratch)
    start = time.perf_counter()
    for _ in run.trainer.run():
        pass
    return sum(example.num_tokens for example in run.rows.train), time.perf_counter() - start


def theirs(folder: str, rows: list[dict[str, str]], way: str, scratch: str) -> tuple[int, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
        for row in rows
    ]
    is_packed = "packed" in way
    num_tokens = sum(
        len(tokenizer.apply_chat_template([*m["prompt"], *m["completion"]], tokenize=True)["input_ids"])
        for m in messages
    )
    per_step = (
        TOKENS_PER_STEP // TRL_PACKED_LENGTH if is_packed else max(1, round(TOKENS_PER_STEP * len(rows) / num_tokens))
    )
    config = SFTConfig(
        output_dir=scratch,
        num_train_epochs=1,
        per_device_train_batch_size=1 if is_packed else 8,
        gradient_accumulation_steps=per_step if is_packed else max(1, round(per_step / 8)),
        max_length=TRL_PACKED_LENGTH if is_packed else MAX_TOKENS,
        packing=is_packed,
        report_to=[],
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(messages), processing_class=tokenizer, peft_config=lora
    )
    start = time.perf_counter()
    trainer.train()
    return num_tokens, time.perf_counter() - start


if __name__ == "__main__":
    main()
