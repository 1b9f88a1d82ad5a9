"""What comparing over part of the vocabulary costs and spares: divergence, gradient and seconds beside all of it, on real text.

    python benchmarks/quality/vocabulary_sample.py TEACHER_FOLDER STUDENT_FOLDER COUNTED.txt READ.txt

The frequent entries are counted in one text, forward KL is taken on another. For each number of entries: the share of the teacher's
mass that lies on them, the mean divergence over several draws divided by the whole one, the cosine of one draw's gradient in the
student's last hidden states with the whole one's, and the time of loss and gradient as a share of the whole one's. The README's table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from attar.compressors.distill.losses.distributions import Distributions
from attar.compressors.distill.losses.objective import DISTRIBUTIONS
from attar.compressors.distill.losses.objectives import ForwardKL
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.vocabulary import VocabularySample
from attar.compressors.distill.losses.views import Targets
from attar.compressors.distill.teachers.outputs import LiveTeacher, Teachers
from attar.compressors.models.head import OutputHead, output_head

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SIZES = (2048, 4096, 8192, 16384, 32768)
NUM_SEQUENCES, NUM_TOKENS, NUM_DRAWS = 8, 257, 5
TOKENS_PER_BATCH = 512


def main() -> None:
    """Print one line a number of entries."""
    teacher_folder, student_folder, counted, read = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    seen = tokenizer(Path(counted).read_text()).input_ids
    ids = tokenizer(Path(read).read_text()).input_ids[: NUM_SEQUENCES * NUM_TOKENS]
    batch = torch.tensor(ids).reshape(NUM_SEQUENCES, NUM_TOKENS)
    head, known = _states(teacher_folder, batch)
    student_head, own = _states(student_folder, batch)
    next_ids = batch[:, 1:].reshape(-1)

    def slope(sample: VocabularySample | None) -> tuple[float, Tensor]:
        reduction = Reduction({"kl": ForwardKL()}, {"kl": 1.0})
        hidden = own.clone().requires_grad_()
        total = 0.0
        for start in range(0, len(own), TOKENS_PER_BATCH):
            part = slice(start, start + TOKENS_PER_BATCH)
            teachers = Teachers(teacher=LiveTeacher(known[part], head))
            views = Distributions(hidden[part], student_head, Targets(next_ids[part]), teachers, sample=sample)
            loss, _ = reduction.loss({DISTRIBUTIONS: views}, {"kl": len(own)})
            loss.backward()
            total += float(loss.detach())
        assert hidden.grad is not None
        return total, hidden.grad.float()

    whole, whole_slope = slope(None)
    whole_seconds = _seconds(lambda: slope(None))
    print(f"{len(own)} tokens, {whole:.4f} nats, {whole_seconds:.2f} s with all {len(head.weight):,} entries")
    for size in SIZES:
        sample = VocabularySample.of([seen], num_entries=size, vocab_size=len(head.weight), seed=0)
        mass = head.logits(known).softmax(dim=-1)[:, sample.is_frequent].sum(dim=-1).mean()
        drawn = [slope(sample.at(step)) for step in range(NUM_DRAWS)]
        ratio = sum(loss for loss, _ in drawn) / NUM_DRAWS / whole
        cosine = torch.nn.functional.cosine_similarity(drawn[0][1].flatten(), whole_slope.flatten(), dim=0)
        seconds = _seconds(lambda sample=sample: slope(sample.at(0)))
        cells = (f"{float(mass):.3f}", f"{ratio:.3f}", f"{float(cosine):.4f}", f"{seconds / whole_seconds:.2f}")
        print(f"| {size:,} | {' | '.join(cells)} |")


@torch.no_grad()
def _states(folder: str, batch: Tensor) -> tuple[OutputHead, Tensor]:
    """Return a model's head, and its last hidden states before every token but the first of each sequence."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    states = [model.base_model(input_ids=row[None, :-1]).last_hidden_state[0] for row in batch]
    return output_head(model), torch.cat(states)


def _seconds(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    recorded(main)
