"""What the tests of loop and self rules and rollouts share."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from attar.compressors.adapt.lora import Lora
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.examples.steps import Schedule, Steps
from attar.compressors.distill.loop.drawing import Rollouts, Verdict
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.divergences.listwise import AnchoredListwise
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from attar.compressors.distill.losses.listwise import ListwiseDistil
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Mix
from attar.compressors.distill.losses.weights.sample_weights import BetaKernel
from attar.compressors.distill.losses.weights.token_weights import EntropyWeight, TopEntropy
from attar.compressors.distill.teachers.sources import Ema
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself
from attar.stages.ingest.tiny_model import random_model
from tests.builders import trainer_of


def example(index: int) -> Example:
    generator = torch.Generator().manual_seed(index)
    prompt = torch.randint(3, 200, (2 + index % 3,), generator=generator).tolist()
    answer = torch.randint(3, 200, (1 + index % 4,), generator=generator).tolist()
    facts = SampleFacts(
        group=index // 2,
        reward=float(index % 2),
        advantage=float(index % 2) - 0.5,
        is_correct=index % 2 == 0,
        pass_rate=0.1 + 0.1 * index,
        old_logprobs=torch.full((len(answer),), -5.0),
    )
    return Example(prompt, answer, hinted_ids=[7, *prompt], facts=facts, name=str(index))


EXAMPLES = [example(index) for index in range(8)]


OBJECTIVES = {
    "next_token": NextToken(),
    "weighted": Distil(
        divergence=ReverseKL(),
        token_weights=(EntropyWeight(beta=0.5), TopEntropy(fraction=0.5)),
        sample_weight=BetaKernel(),
        route="wrong",
    ),
    "policy": Distil(divergence=ClippedRatio(), route="correct"),
    "mixed": Distil(divergence=ForwardKL(), target=Mix(share=0.3, first="labels", second="past")),
    "listwise": ListwiseDistil(divergence=AnchoredListwise()),
}


WEIGHTS = {"next_token": 0.5, "weighted": 1.0, "policy": 1.5, "mixed": 0.7, "listwise": 0.3}


def schedule(tokens_per_micro_batch: int, max_steps: int = 2) -> Schedule:
    return Schedule(
        num_epochs=4,
        max_steps=max_steps,
        decay="none",
        learning_rate=1e-3,
        warmup_fraction=0.0,
        tokens_per_step=1000,
        tokens_per_micro_batch=tokens_per_micro_batch,
        max_grad_norm=1e9,
        weight_decay=0.0,
    )


def trainer(tokens_per_micro_batch: int, accelerator: Accelerator, max_steps: int = 2, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    teacher_sources = {
        "teacher": OtherModel(Student(random_model("llama", seed=1)[0].requires_grad_(False)).eval()),
        "past": StudentItself(Ema(decay=0.5)).begin(student),
    }
    steps = Steps(lambda epoch: range(8), EXAMPLES, schedule(tokens_per_micro_batch, max_steps))
    return trainer_of(
        student, EXAMPLES, steps, Reduction(OBJECTIVES, WEIGHTS), accelerator, teacher_sources=teacher_sources
    )  # type: ignore[arg-type]


def judge(example: Example, answer: list[int], is_finished: bool) -> Verdict:
    is_even = answer[0] % 2 == 0
    return Verdict(float(is_even), is_even)


def rollouts(policy: object, **changes: object) -> Rollouts:
    def hint(example: Example, answer: list[int], verdict: Verdict, sibling: list[int] | None) -> list[int] | None:
        return None if sibling is None else [*example.prompt_ids, *sibling]

    return Rollouts(policy, judge, hint, [0], 3, **changes)  # type: ignore[arg-type]
