"""Peak memory and speed of full-vocabulary KL toward a live teacher: ours in chunks beside the plain form.

    python benchmarks/speed/kl_memory.py FOLDER

FOLDER holds a causal model; its head (weights alone, frozen) reads 8 x 512 hidden states of student and teacher, forward and backward to
the student's states. Each run is a process of its own, and the two forms take turns, so that other load hits both. Memory is the
process's peak resident size, the interpreter, torch and the head included; the chunk is the training loop's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open

from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.distributions import Distributions
from attar.compressors.distill.losses.divergences.catalogue import DIVERGENCES
from attar.compressors.distill.losses.objective import DISTRIBUTIONS
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import Targets
from attar.compressors.distill.teachers.outputs import LiveTeacher, Teachers
from attar.compressors.models.head import OutputHead

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

NUM_TOKENS = 8 * 512
NUM_PASSES = 2
NUM_TURNS = 4
HEAD_NAMES = ("lm_head.weight", "model.embed_tokens.weight")


def main() -> None:
    """Print one line a form and the two ratios."""
    if len(sys.argv) == 3:
        print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]))))
        return
    runs: dict[str, list[dict[str, float]]] = {"plain": [], "chunked": []}
    for _ in range(NUM_TURNS):
        for form, results in runs.items():
            done = subprocess.run(
                [sys.executable, __file__, form, sys.argv[1]], capture_output=True, text=True, check=True
            )
            results.append(json.loads(done.stdout.splitlines()[-1]))
    peaks = {form: max(run["peak_bytes"] for run in results) for form, results in runs.items()}
    seconds = {form: statistics.median(run["pass_seconds"] for run in results) for form, results in runs.items()}
    for form in runs:
        loss = runs[form][0]["loss_nats"]
        print(
            f"{form}: peak {peaks[form] / 1e9:.2f} GB, {NUM_TOKENS / seconds[form]:,.0f} tokens/s, loss {loss:.6f} nats"
        )
    print(f"memory {peaks['chunked'] / peaks['plain']:.2f} of the plain form (wanted: under 0.5)")
    print(f"speed {seconds['plain'] / seconds['chunked']:.2f} of the plain form (wanted: at least 0.9)")


def measured(form: str, folder: Path) -> dict[str, float]:
    """Return peak memory in bytes, the median time of a pass in seconds, and the loss in nats a token."""
    weight = head_weight(folder)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(NUM_TOKENS, weight.shape[1], generator=generator) for _ in range(2)]
    student = states[0].requires_grad_()
    seconds, loss = [], torch.zeros(())
    for _ in range(NUM_PASSES):
        start = time.perf_counter()
        loss = FORMS[form](student, states[1], weight)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        student.grad = None
    return {"peak_bytes": peak_bytes(), "pass_seconds": statistics.median(seconds), "loss_nats": float(loss.detach())}


def plain(student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher || student) as it is commonly written: both models' log-probabilities of all tokens."""
    ours = torch.nn.functional.linear(student, weight).log_softmax(dim=-1)
    with torch.no_grad():
        teacher_logprobs = torch.nn.functional.linear(teacher, weight).log_softmax(dim=-1)
    return torch.nn.functional.kl_div(ours, teacher_logprobs, reduction="sum", log_target=True) / NUM_TOKENS


def chunked(student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the same through the training loop's reduction."""
    head = OutputHead(weight)
    objective = Distil(divergence=DIVERGENCES["forward_kl"]())
    targets = Targets(torch.zeros(NUM_TOKENS, dtype=torch.long))
    views = Distributions(student, head, targets, Teachers(teacher=LiveTeacher(teacher, head)))
    loss, _ = Reduction({"kl": objective}, {"kl": 1.0}).loss({DISTRIBUTIONS: views}, {"kl": NUM_TOKENS})
    return loss


FORMS = {"plain": plain, "chunked": chunked}


def head_weight(folder: Path) -> torch.Tensor:
    """Return the output matrix in float32, V D; the input embedding where the two are tied."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in HEAD_NAMES:
                if name in file.keys():  # noqa: SIM118 - no mapping
                    return file.get_tensor(name).float()
    raise ValueError(f"{folder}: no output matrix; looked for {', '.join(HEAD_NAMES)}")


def peak_bytes() -> int:
    """Return the peak resident size of this process (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    recorded(main)
