#!/usr/bin/env bash
# diffusers 0.39.0, torch 2.13.0.
# `DDIMScheduler` and `DDPMScheduler` space their steps "leading" by default: for one step of 1,000 the time is 0, the CLEANEST, and for four
# it is 750, 500, 250, 0. A one-step student that is sampled through them gets pure noise and is told that it is nearly clean.
# `DPMSolverMultistepScheduler` begins at 999; `EulerDiscreteScheduler`, whose default is "linspace", gives 0 for one step and 999 for four.
# Output seen: DDIM [0] and [750, 500, 250, 0]; DDPM the same; DPMSolver [999]; Euler [0] and [999, 666, 333, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 diffusers==0.39.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler


def times(kind, num_steps):
    scheduler = kind(num_train_timesteps=1000)
    scheduler.set_timesteps(num_steps)
    return [int(time) for time in scheduler.timesteps]


kinds = (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler)
seen = {kind.__name__: (times(kind, 1), times(kind, 4)) for kind in kinds}
for name, steps in seen.items():
    print(name, *steps)
assert seen["DDIMScheduler"] == seen["DDPMScheduler"] == ([0], [750, 500, 250, 0]), "the behaviour has changed"
assert seen["DPMSolverMultistepScheduler"][0] == [999], "the behaviour has changed"
assert seen["EulerDiscreteScheduler"] == ([0], [999, 666, 333, 0]), "the behaviour has changed"
PY
