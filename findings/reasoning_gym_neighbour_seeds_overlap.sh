#!/usr/bin/env bash
# reasoning-gym 0.1.25.
# Item i of a generated data set is drawn with seed + i. Two data sets of one task whose seeds differ by one hold the same questions, moved
# by one place: of 50 questions 49 are shared. Whoever takes seed 1 for training and seed 2 for testing tests on training questions.
# Output seen: 50 questions each, 49 shared; moved by one: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check reasoning-gym==0.1.25
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import reasoning_gym

train, test = (
    [item["question"] for item in reasoning_gym.create_dataset("basic_arithmetic", size=50, seed=seed)] for seed in (1, 2)
)
shared = len(set(train) & set(test))
print(f"{len(train)} questions each, {shared} shared; moved by one: {train[1:] == test[:-1]}")
assert shared == 49 and train[1:] == test[:-1], "the behaviour has changed"
PY
