"""What recording a teacher's top k instead of its whole distribution costs: divergences over k, on real text.

    python benchmarks/quality/top_k_bias.py FOLDER TEXT.txt [STUDENT_FOLDER]

The teacher is the model in FOLDER, the student the one given or the same without blocks 13 to 18, unhealed. For each k: the mean of the
divergence over k candidates and the rest, divided by the whole one, and the mean cosine of the two gradients in the student's logits.
Written as the table of the README.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attar.compressors.catalogue import build
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.catalogue import DIVERGENCES
from attar.compressors.distill.losses.views import Targets, TokenViews
from attar.compressors.models.blocks import remove_blocks

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SIZES = (1, 8, 64, 256, 1024)
LOSSES = {
    "forward KL": ("forward_kl", {}),
    "reverse KL": ("reverse_kl", {}),
    "Jensen-Shannon": ("jensen_shannon", {}),
    "total variation": ("total_variation", {}),
}
NUM_SEQUENCES, NUM_TOKENS = 4, 256


@torch.no_grad()
def main() -> None:
    """Print one line a divergence."""
    folder, text, *students = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(Path(text).read_text()).input_ids[: NUM_SEQUENCES * NUM_TOKENS]
    batch = torch.tensor(ids).reshape(NUM_SEQUENCES, NUM_TOKENS)
    teacher = _logprobs(folder, batch, ())
    student = _logprobs(students[0], batch, ()) if students else _logprobs(folder, batch, range(13, 19))
    next_ids = batch[:, 1:].reshape(-1)
    mass = ", ".join(f"{k}: {float(teacher.topk(k).values.exp().sum(-1).mean()):.3f}" for k in SIZES)
    print(f"{len(next_ids)} tokens; mean mass of the teacher's top k: {mass}")
    for title, (name, params) in LOSSES.items():
        objective = Distil(divergence=build(DIVERGENCES, name, params))
        whole, slope = _mean_and_slope(objective, student, Targets(next_ids, teacher_full=teacher))
        cells = []
        for k in SIZES:
            values, top = teacher.topk(k, dim=-1)
            recorded = Targets(next_ids, top, values, torch.ones(len(next_ids), dtype=torch.bool))
            value, other = _mean_and_slope(objective, student, recorded)
            cosine = torch.nn.functional.cosine_similarity(other, slope, dim=-1).mean()
            cells.append(f"{value / whole:.3f} / {float(cosine):.3f}")
        print(f"| {title} | {whole:.3f} | {' | '.join(cells)} |")


def _logprobs(folder: str, batch: torch.Tensor, removed: Sequence[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if removed:
        remove_blocks(model, removed)
    logits = torch.cat([model(input_ids=row[None]).logits[0, :-1] for row in batch])
    return logits.float().log_softmax(dim=-1)


def _mean_and_slope(objective: Distil, student: torch.Tensor, targets: Targets) -> tuple[float, torch.Tensor]:
    """Return the mean loss in nats and its gradient in the student's logits."""
    with torch.enable_grad():
        logits = student.detach().requires_grad_()
        loss = objective.terms(TokenViews(logits.log_softmax(dim=-1), targets)).values
        (slope,) = torch.autograd.grad(loss.sum(), logits)
    return float(loss.detach().mean()), slope


if __name__ == "__main__":
    recorded(main)
