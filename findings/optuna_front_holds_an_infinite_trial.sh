#!/usr/bin/env bash
# optuna 4.9.0.
# In a study of several objectives a trial whose loss is infinite is COMPLETE like any other, and lies on `best_trials` when another of its
# objectives is the best so far: a training that diverged is offered among the best for being the fastest. NaN is a failed trial.
# Output seen: best trials (0.5, 2.0) and (inf, 1.0); state of the NaN trial: FAIL
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optuna==4.9.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import math

import optuna

optuna.logging.set_verbosity(optuna.logging.CRITICAL)
study = optuna.create_study(directions=["minimize", "minimize"])
loss_and_seconds = iter([(0.5, 2.0), (math.inf, 1.0), (math.nan, 0.5)])
study.optimize(lambda trial: next(loss_and_seconds), n_trials=3, catch=(ValueError,))
best = sorted(tuple(trial.values) for trial in study.best_trials)
print(f"best trials {best}; state of the NaN trial: {study.trials[2].state.name}")
assert best == [(0.5, 2.0), (math.inf, 1.0)] and study.trials[2].state.name == "FAIL", "the behaviour has changed"
PY
