#!/usr/bin/env bash
# datasets 5.2.0.
# `Dataset.from_list` takes its columns from the FIRST row: what only later rows hold is dropped in silence. The same rows as JSON Lines
# through `load_dataset("json")` keep the column, with null where a row lacks it.
# Output seen: from_list ['question'], load_dataset ['question', 'answer']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import logging
from pathlib import Path

from datasets import Dataset, disable_progress_bars, load_dataset

disable_progress_bars()
rows = [{"question": "1 + 1?"}, {"question": "2 + 2?", "answer": "4"}]
Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
listed = Dataset.from_list(rows).column_names
loaded = load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache").column_names
print(f"from_list {listed}, load_dataset {loaded}")
assert listed == ["question"] and loaded == ["question", "answer"], "the behaviour has changed"
PY
