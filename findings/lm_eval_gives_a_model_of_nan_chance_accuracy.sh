#!/usr/bin/env bash
# lm_eval 0.4.13, datasets 5.2.0.
# A model whose every log-likelihood is NaN (an overflow in half precision) is no error: numpy's argmax takes the first NaN, so that the first
# choice is "chosen" each time, and `acc` is the share of questions whose answer is the first: 0.25 of 40 balanced questions. A broken model
# reads like a weak one.
# Output seen: acc 0.25, acc_norm 0.25 of 40 questions
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 lm_eval==0.4.13 datasets==5.2.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import logging
import math
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
logging.disable(logging.WARNING)
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

folder = Path("task")
folder.mkdir()
rows = [{"question": f"question {i}", "choices": ["a", "b", "c", "d"], "answer": i % 4} for i in range(40)]
(folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
task = {
    "task": "balanced",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str((folder / "rows.jsonl").resolve())}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
(folder / "balanced.yaml").write_text(json.dumps(task))


class Broken(LM):
    def loglikelihood(self, requests):
        return [(math.nan, False) for _ in requests]

    def loglikelihood_rolling(self, requests):
        return [math.nan for _ in requests]

    def generate_until(self, requests):
        return ["" for _ in requests]


scores = lm_eval.simple_evaluate(
    Broken(), tasks=["balanced"], task_manager=TaskManager(include_path=str(folder)), bootstrap_iters=0
)["results"]["balanced"]
print(f"acc {scores['acc,none']}, acc_norm {scores['acc_norm,none']} of {len(rows)} questions")
assert scores["acc,none"] == scores["acc_norm,none"] == 0.25, "the behaviour has changed"
PY
