#!/usr/bin/env bash
# safetensors 0.8.0 (0.5.3 beside it), numpy 2.3.5, under umask 022.
# `save_file` makes a file that its owner alone may read (mode 600) where 0.5.3, like any file that Python opens, left the mode to the umask
# (644). What saves through it follows: a model written by one user of a shared store, or by root in a container, is "permission denied" for
# the server that should load it, while its config.json beside it is readable.
# Output seen: safetensors 0.5.3: model 644, config.json 644; safetensors 0.8.0: model 600, config.json 644
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
umask 022
for version in 0.5.3 0.8.0; do
    python3 -m venv "venv-$version"
    "venv-$version/bin/pip" install --quiet --disable-pip-version-check "safetensors==$version" numpy==2.3.5
    "venv-$version/bin/python" - "$version" <<'PY'
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy
from safetensors.numpy import save_file

save_file({"weight": numpy.zeros(2, numpy.float32)}, "model.safetensors")
Path("config.json").write_text("{}")
modes = {name: oct(os.stat(name).st_mode)[-3:] for name in ("model.safetensors", "config.json")}
print(f"safetensors {version('safetensors')}: model {modes['model.safetensors']}, config.json {modes['config.json']}")
expected = {"0.5.3": "644", "0.8.0": "600"}[sys.argv[1]]
assert modes == {"model.safetensors": expected, "config.json": "644"}, "the behaviour has changed"
Path("model.safetensors").unlink()
PY
done
