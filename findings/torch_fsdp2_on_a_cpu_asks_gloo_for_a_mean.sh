#!/usr/bin/env bash
# torch 2.13.0, FSDP2 (`fully_shard`) on CPU tensors with the default backend for a CPU, gloo, two processes.
# Forward works; the first backward ends in an error: FSDP2 averages gradients by a reduce-scatter with ReduceOp.AVG, which gloo does not
# have, and nothing chooses another way for a CPU as it does for the device type mtia. `set_force_sum_reduction_for_comms(True)`, documented
# as a matter of NCCL's algorithms, makes it sum and divide: then the gradient is the mean of both processes.
# Output seen: see the last lines of this file
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
cat > sharded.py <<'PY'
import os
import sys

import torch
from torch.distributed.fsdp import fully_shard


def run(rank, meeting, is_summed, outcomes):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(meeting, 2)
    backend = torch.distributed.get_default_backend_for_device("cpu")
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4, bias=False)
    fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    model.set_force_sum_reduction_for_comms(is_summed)
    loss = model(torch.full((1, 4), float(rank + 1))).sum()
    try:
        loss.backward()
        outcome = f"gradient {model.weight.grad.full_tensor()[0, 0]:.2f}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if rank == 0:
        outcomes.put(outcome)


if __name__ == "__main__":
    for is_summed in (False, True):
        outcomes = torch.multiprocessing.get_context("spawn").SimpleQueue()
        torch.multiprocessing.spawn(run, (f"{sys.argv[1]}/{is_summed}", is_summed, outcomes), nprocs=2)
        print("summed" if is_summed else "as it is", "->", outcome := outcomes.get())
        expected = "gradient 1.50" if is_summed else "AVG"
        assert expected in outcome, "the behaviour has changed"
PY
venv/bin/python -W ignore sharded.py "$folder"
