#!/usr/bin/env bash
# optuna 4.9.0.
# MedianPruner compares a trial's BEST value so far with the median of the others. A trial that begins well and then goes to infinity
# or NaN is therefore never pruned: its first value stays its best. One would guess that a diverged trial is the first to go.
# Output seen: inf after a good start: pruned at none of 5 steps; nan after a good start: pruned at none of 5 steps; inf from the start: pruned at 6 of 6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optuna==4.9.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import math

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0))


def healthy(trial):
    for step in range(6):
        trial.report(1.0 - 0.1 * step, step)
    return 0.5


study.optimize(healthy, n_trials=3)


def times_pruned(values):
    trial, count = study.ask(), 0
    for step, value in enumerate(values):
        trial.report(value, step)
        count += bool(trial.should_prune())
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return count


late = {name: times_pruned([0.1] + [value] * 5) for name, value in (("inf", math.inf), ("nan", math.nan))}
early = times_pruned([math.inf] * 6)
print(f"after a good start: {late}; inf from the start: {early} of 6")
assert late == {"inf": 0, "nan": 0} and early == 6, "the behaviour has changed"
PY
