"""Speed and peak memory of LoRA training, ours beside TRL's trainers: same model, rows, LoRA and step size.

python benchmarks/speed/finetune.py MODEL_FOLDER ROWS.jsonl [sft|offline_kl|offline_kl_after_cut|on_policy_kl ...] [--num-rows N] [--rounds 2]
Rows have `question` and `answer`. The distillations train the model without six of its blocks, whose teacher is the whole one; TRL's
is its GKDTrainer, lmbda 0 and 1, forward KL. `after_cut` trains the blocks from the cut on, over cached states of those before, for which
TRL has no option. What is done once before the steps (recording, caching, a teacher run once) is not in their time.
Each way runs in a process of its own, one after the other, so many rounds.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

TOKENS_PER_STEP, RANK, MAX_TOKENS = 4096, 16, 512
# TRL's own checkpointing saves memory and costs time, and its packing has two strategies and any length; its defaults are on, bfd and 1,024.
TRL_PACKED: dict[str, dict[str, Any]] = {
    "trl, packed (bfd), checkpointing": {"max_length": 1024},
    "trl, packed (bfd)": {"max_length": 1024, "gradient_checkpointing": False},
    "trl, packed (bfd) to 512": {"max_length": 512, "gradient_checkpointing": False},
    "trl, packed (wrapped)": {"max_length": 1024, "gradient_checkpointing": False, "packing_strategy": "wrapped"},
}
NEW_TOKENS, QUESTIONS_PER_STEP, NUM_HELDOUT = 64, 8, 16
REMOVED = (13, 14, 15, 16, 17, 18)
# kind -> the ways to do it, ours first, and how many rows of the file each takes
WAYS = {
    "sft": ("attar", "trl, its defaults", *TRL_PACKED),
    "offline_kl": ("attar, recorded", "attar, live teacher", "trl GKD, lmbda 0"),
    "offline_kl_after_cut": ("attar, recorded", "attar, live teacher", "attar, teacher run once"),
    "on_policy_kl": ("attar, on policy", "trl GKD, lmbda 1"),
}
NUM_ROWS = {
    "sft": 192,
    "offline_kl": 96,
    "offline_kl_after_cut": 96,
    "on_policy_kl": 24,  # TRL takes 9 s a question that it writes to
}


def main(
    model: Path,
    rows: Path,
    kinds: Annotated[list[str] | None, typer.Argument(help="; ".join(WAYS))] = None,
    num_rows: Annotated[int, typer.Option(help="Rows to train on; 0: each kind's own number.")] = 0,
    rounds: int = 2,
    way: Annotated[str, typer.Option(hidden=True)] = "",
    pruned: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train each way of each kind and print a table a kind."""
    if way and pruned and kinds:
        run_config(model, rows, kinds[0], way, pruned, num_rows)
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = cut(model, Path(scratch))
        for kind in kinds or WAYS:
            measure(kind, [str(model), str(rows), kind, "--pruned", str(made)], num_rows or NUM_ROWS[kind], rounds)


def measure(kind: str, arguments: list[str], num_rows: int, rounds: int) -> None:
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS[kind]}
    for _ in range(rounds):
        for way in WAYS[kind]:  # in turn, so that a slow minute of the machine hits all
            command = [sys.executable, __file__, *arguments, "--num-rows", str(num_rows), "--way", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[way].append(json.loads(done.stdout.splitlines()[-1]))
    unit = "questions/s" if kind == "on_policy_kl" else "useful tokens/s"
    print(f"\n| {kind}, {num_rows} rows | {unit} | ours / it | peak RSS | held-out KL |\n|---|---|---|---|---|")
    speeds = {way: max(result["done"] / result["seconds"] for result in runs) for way, runs in results.items()}
    for way, runs in results.items():
        peak = min(result["peak_bytes"] for result in runs)
        kl = f"{runs[-1]['kl']:.4f}" if "kl" in runs[-1] else ""
        print(
            f"| {way} | {speeds[way]:.2f} | {speeds[WAYS[kind][0]] / speeds[way]:.2f} | {peak / 1e9:.2f} GB | {kl} |",
            flush=True,
        )


def run_config(folder: Path, rows_path: Path, kind: str, way: str, pruned: Path, num_rows: int) -> None:
    """Train one epoch; print what was done (tokens of prompts and answers, or questions), the seconds of training alone, peak memory."""
    with rows_path.open() as stream:
        lines = [json.loads(line) for _, line in zip(range(num_rows + NUM_HELDOUT), stream, strict=False)]
    rows, heldout = lines[:num_rows], lines[num_rows:]
    student = folder if kind == "sft" else pruned
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        train = ours if way.startswith("attar") else peft_run
        model, cost = train(student, folder, rows, (kind, way), Path(scratch))
    cost["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if kind != "sft":
        cost["kl"] = heldout_kl(model, folder, heldout)
    print(json.dumps(cost))


def cut(folder: Path, scratch: Path) -> Path:
    """Return the folder of the model without the removed blocks, which is a plain Hugging Face folder for TRL too."""
    from attar.registry.artifacts.store import Store
    from attar.stages.prune.config import PruneConfig, PruneInputs
    from attar.stages.prune.stage import prune

    store = Store(scratch)
    inputs = PruneInputs(model=ingested(folder, store))
    return prune.execute(PruneConfig(blocks=REMOVED), inputs, store).artifact.path


def ingested(folder: Path, store: Any) -> Any:
    from attar.stages.contract import NoInputs
    from attar.stages.ingest.model import IngestModelConfig, ingest_model

    return ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact


def ours(
    student: Path, teacher: Path, rows: list[dict[str, str]], which: tuple[str, str], scratch: Path
) -> tuple[Any, dict[str, float]]:
    from attar.compressors.models.adapted import plain_model
    from attar.registry.artifacts.store import Store
    from attar.stages.contract import NoInputs
    from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
    from attar.stages.finetune.plan import TrainingPlan
    from attar.stages.finetune.stage import build_run
    from attar.stages.ingest.data import IngestDataConfig, ingest_data
    from attar.stages.label.record import RecordConfig, RecordInputs, record

    kind, way = which
    store, path = Store(scratch), scratch / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.0)
    data = ingest_data.execute(source, NoInputs(), store).artifact
    original = ingested(teacher, store) if kind != "sft" else None
    record_seconds = 0.0
    if "recorded" in way:
        start = time.perf_counter()
        config = RecordConfig(tokens="answers")
        data = record.execute(config, RecordInputs(model=original, data=data), store).artifact
        record_seconds = time.perf_counter() - start
    more: dict[str, Any] = {} if kind == "sft" else {"objectives": {"forward_kl": 1.0}}
    adapt = {"rank": RANK, "blocks": "after_cut" if kind == "offline_kl_after_cut" else "all"}
    if kind == "on_policy_kl":
        more["rollout"] = {"kind": "student", "max_new_tokens": NEW_TOKENS, "temperature": 0.9}
    model = ingested(student, store)
    if kind == "offline_kl_after_cut":
        model = replace(model, facts={**model.facts, "removed_blocks": tuple(REMOVED)})
    if "run once" in way:
        more["teacher"] = {"run_once": True}
    config = FinetuneConfig(
        adapt=adapt,
        schedule={"num_epochs": 1, "tokens_per_step": tokens_per_step(kind)},
        rows={"max_tokens": MAX_TOKENS},
        heldout={"patience": 0},
        **more,
    )
    live = None if kind == "sft" or "recorded" in way else original
    inputs = FinetuneInputs(model=model, data=(data,), teacher=live)
    run = build_run(TrainingPlan.of(config, inputs), inputs, scratch)
    start = time.perf_counter()
    for _ in run.trainer.run():
        pass
    seconds = time.perf_counter() - start
    num_done = len(rows) if kind == "on_policy_kl" else sum(example.num_tokens for example in run.rows.train)
    figures = {"done": num_done, "seconds": seconds, "record_seconds": record_seconds}
    return plain_model(run.student.model), figures


def tokens_per_step(kind: str) -> int:
    """Count, of an on-policy step, whose answers are not there yet, the questions and the room for the answers."""
    return 2 * QUESTIONS_PER_STEP * NEW_TOKENS if kind == "on_policy_kl" else TOKENS_PER_STEP


def peft_run(
    student: Path, teacher: Path, rows: list[dict[str, str]], which: tuple[str, str], scratch: Path
) -> tuple[Any, dict[str, float]]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind, way = which
    tokenizer = AutoTokenizer.from_pretrained(student)
    messages = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}] for row in rows
    ]
    num_tokens = sum(len(tokenizer.apply_chat_template(m, tokenize=True)["input_ids"]) for m in messages)
    model = AutoModelForCausalLM.from_pretrained(student, dtype="auto")
    options: dict[str, Any] = {
        "output_dir": str(scratch),
        "num_train_epochs": 1,
        "learning_rate": 2e-4,
        "max_length": MAX_TOKENS,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
    }
    lora = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    together = {"processing_class": tokenizer, "peft_config": lora}
    if kind == "sft":
        from trl import SFTConfig, SFTTrainer

        split = [{"prompt": m[:1], "completion": m[1:]} for m in messages]
        options |= batches(num_tokens, len(rows), TRL_PACKED.get(way))
        trainer = SFTTrainer(model, SFTConfig(**options), train_dataset=Dataset.from_list(split), **together)
    else:
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        is_on_policy = kind == "on_policy_kl"
        per_step = QUESTIONS_PER_STEP if is_on_policy else max(1, round(TOKENS_PER_STEP * len(rows) / num_tokens))
        config = GKDConfig(
            **options,
            lmbda=float(is_on_policy),
            beta=0.0,
            temperature=0.9 if is_on_policy else 1.0,
            max_new_tokens=NEW_TOKENS,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=max(1, round(per_step / 8)),
        )
        whole = AutoModelForCausalLM.from_pretrained(teacher, dtype="auto")
        rows_of_trl = Dataset.from_list([{"messages": m} for m in messages])
        trainer = GKDTrainer(model, whole, args=config, train_dataset=rows_of_trl, **together)
    start = time.perf_counter()
    trainer.train()
    done = len(rows) if kind == "on_policy_kl" else num_tokens
    return trainer.model, {"done": done, "seconds": time.perf_counter() - start}


def batches(num_tokens: int, num_rows: int, packed: dict[str, Any] | None) -> dict[str, Any]:
    """Return SFTConfig's batch sizes for steps of as many tokens as ours, and how it packs."""
    if packed is not None:
        num_packs = TOKENS_PER_STEP // packed["max_length"]
        return packed | {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": num_packs}
    per_step = max(1, round(TOKENS_PER_STEP * num_rows / num_tokens))
    return {"per_device_train_batch_size": 8, "gradient_accumulation_steps": max(1, round(per_step / 8))}


def heldout_kl(model: Any, folder: Path, rows: list[dict[str, str]]) -> float:
    """Return KL(original || student) in nats a token, over the reference answers of rows that nothing was trained on."""
    from attar.compressors.data.prompts import answer_tokens, chat_prompt
    from attar.compressors.measure.closeness import closeness
    from attar.compressors.models.runner import TorchRunner
    from attar.stages.artifacts.model.folder import load_model, load_tokenizer

    tokenizer = load_tokenizer(folder)
    pairs = [(chat_prompt(tokenizer, row["question"]), answer_tokens(tokenizer, row["answer"])) for row in rows]
    model.eval()
    texts = closeness(TorchRunner(model), TorchRunner(load_model(folder, "auto")), pairs, batch_size=4)
    return sum(text.kl_nats for text in texts) / sum(text.num_tokens for text in texts)


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
