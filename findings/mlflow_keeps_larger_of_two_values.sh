#!/usr/bin/env bash
# mlflow 3.17.2, SQLite store.
# A metric logged twice at one step and one millisecond keeps the LARGER value as the run's latest, whichever came last: 5.0 and then 3.0
# gives 5.0. A resumed training that logs its step again shows the worse loss. One millisecond later the last one wins, as one would guess.
# The history comes back sorted by value, not in the order of logging.
# Output seen: same millisecond: latest 5.0, history [3.0, 5.0]; a millisecond later: latest 3.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import logging

import mlflow
from mlflow.entities import Metric

logging.disable(logging.INFO)
mlflow.set_tracking_uri("sqlite:///runs.db")
client = mlflow.MlflowClient()
run_id = client.create_run(client.create_experiment("losses", artifact_location="artifacts")).info.run_id
for name, timestamps in (("together", (1000, 1000)), ("apart", (1000, 1001))):
    for value, timestamp in zip((5.0, 3.0), timestamps):
        client.log_batch(run_id, metrics=[Metric(name, value, timestamp, 7)])
latest = client.get_run(run_id).data.metrics
history = [metric.value for metric in client.get_metric_history(run_id, "together")]
print(f"same millisecond: latest {latest['together']}, history {history}; a millisecond later: latest {latest['apart']}")
assert latest == {"together": 5.0, "apart": 3.0} and history == [3.0, 5.0], "the behaviour has changed"
PY
