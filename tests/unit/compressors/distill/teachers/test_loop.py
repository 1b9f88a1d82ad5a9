"""Steps: the same however they are split, over micro-batches and over processes; teachers that are the student itself; rollouts."""

from __future__ import annotations

import copy
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from attar.compressors.adapt.lora import Lora
from attar.compressors.adapt.weights import FullWeights
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.examples.rollouts import MixedWrites, RepairedWrites, StudentWrites, TeacherWrites
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.examples.steps import Clock, Schedule, Steps
from attar.compressors.distill.loop.drawing import Rollouts, Verdict, cut_index
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.divergences.listwise import AnchoredListwise
from attar.compressors.distill.losses.divergences.policy import ClippedRatio
from attar.compressors.distill.losses.listwise import ListwiseDistil
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.targets.target_ops import Identity, Mix
from attar.compressors.distill.losses.weights.coefficients import LinearRamp
from attar.compressors.distill.losses.weights.sample_weights import BetaKernel
from attar.compressors.distill.losses.weights.token_weights import EntropyWeight, TopEntropy
from attar.compressors.distill.teachers.sources import Base, Ema, Generation, Live, PreviousEpoch, SelfRule, Start
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself
from attar.compressors.models.trained_weights import trained_weights
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


def gradients_and_losses(
    tokens_per_micro_batch: int, accelerator: Accelerator
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    run = trainer(tokens_per_micro_batch, accelerator)
    gradients: dict[str, torch.Tensor] = {}
    step = run.optimizer.step

    def keep(*args: object, **kwargs: object) -> object:
        gradients.update({n: p.grad.clone() for n, p in run.plain_student.named_parameters() if p.grad is not None})
        return step(*args, **kwargs)

    run.optimizer.step = keep  # type: ignore[method-assign]
    record = next(run.run())
    return gradients, record.losses


def test_eight_batches_of_one_are_one_batch_of_eight() -> None:
    """Every kind of objective: routes under one denominator, means over the step, groups, targets with a kept past."""
    whole, small = gradients_and_losses(10_000, Accelerator(cpu=True)), gradients_and_losses(1, Accelerator(cpu=True))
    assert whole[0].keys() == small[0].keys() and max(float(table.abs().max()) for table in whole[0].values()) > 1e-3
    for name, gradient in whole[0].items():
        torch.testing.assert_close(small[0][name], gradient, atol=1e-6, rtol=1e-4)
    assert small[1] == pytest.approx(whole[1], abs=1e-6)


def test_routes_share_one_denominator() -> None:
    """What one route loses the other gains: together they are divided by every token, wherever each sequence goes."""
    run = trainer(10_000, Accelerator(cpu=True))
    num_tokens = sum(len(example.answer_ids) for example in EXAMPLES)
    plain = Distil(divergence=ForwardKL())
    wrong, right = Distil(divergence=ForwardKL(), route="wrong"), Distil(divergence=ForwardKL(), route="correct")
    run.reduction = Reduction(
        {"all": plain, "wrong": wrong, "right": right}, dict.fromkeys(("all", "wrong", "right"), 1.0)
    )
    losses = next(run.run()).losses
    assert losses["wrong"] > 0 and losses["right"] > 0 and num_tokens > 8
    assert losses["wrong"] + losses["right"] == pytest.approx(losses["all"], abs=1e-6)


def _in_process(rank: int, port: int, folder: str) -> None:
    import os

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    outcome = gradients_and_losses(12, accelerator)
    torch.save(outcome, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_take_the_step_that_one_takes(tmp_path: Path) -> None:
    whole = gradients_and_losses(10_000, Accelerator(cpu=True))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_in_process, args=(port, str(tmp_path)), nprocs=2, start_method="spawn")
    for rank in range(2):
        gradients, losses = torch.load(tmp_path / f"{rank}.pt")
        assert losses == pytest.approx(whole[1], abs=1e-6)
        names = {name.removeprefix("module."): value for name, value in gradients.items()}
        for name, gradient in whole[0].items():
            torch.testing.assert_close(names[name], gradient, atol=1e-6, rtol=1e-4)


def logprobs_of(rule: SelfRule, student: Student, *, is_hinted: bool = True) -> torch.Tensor:
    batch = collate(EXAMPLES, range(4), is_packed=True)
    source = StudentItself(rule, is_hinted).begin(student)
    return source.speak(student, batch).logprobs(slice(None))


def test_base_is_the_students_own_base_without_a_second_model() -> None:
    base, _ = random_model("llama")
    batch = collate(EXAMPLES, range(4), is_packed=True)
    copy = Student(random_model("llama")[0].requires_grad_(False)).eval()
    expected = OtherModel(copy).speak(copy, batch).logprobs(slice(None))
    student = Student(Lora(rank=2)(base, 0))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    before = {id(parameter) for parameter in student.parameters()}
    source = StudentItself(Base()).begin(student)
    # the same tensors, one by one: nothing is kept, so nothing costs memory
    assert source.weights == {} and {id(parameter) for parameter in student.parameters()} == before
    assert torch.equal(source.speak(student, batch).logprobs(slice(None)), expected)
    assert (logprobs_of(Live(), student) - expected).abs().max() > 0.01, "with its adapters on it says something else"
    assert all(p.requires_grad for n, p in student.named_parameters() if "lora_" in n) and student.training
    with pytest.raises(ValueError, match="the base is a teacher only under low-rank adapters"):
        StudentItself(Base()).begin(Student(FullWeights()(random_model("llama")[0], 0)))


def test_a_live_teacher_without_a_hint_gives_no_loss_and_no_gradient() -> None:
    plain = [Example(example.prompt_ids, example.answer_ids) for example in EXAMPLES]
    run = trainer(10_000, Accelerator(cpu=True))
    run.examples, run.teacher_sources = plain, {"teacher": StudentItself(Live()).begin(run.plain_student)}
    run.reduction = Reduction({"kl": Distil(divergence=ForwardKL())}, {"kl": 1.0})
    record = next(run.run())
    assert record.losses["kl"] == pytest.approx(0.0, abs=1e-6) and record.grad_norm < 1e-5
    hinted = trainer(10_000, Accelerator(cpu=True))
    hinted.teacher_sources = {"teacher": StudentItself(Live()).begin(hinted.plain_student)}
    hinted.reduction = run.reduction
    assert next(hinted.run()).losses["kl"] > 1e-4, "what only the teacher reads makes a difference"


def test_rules_follow_the_student_as_they_say() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    name = next(iter(trained_weights(student)))
    parameter = dict(student.named_parameters())[name]
    rules = {
        "start": Start(),
        "ema": Ema(decay=0.75, every=2),
        "epoch": PreviousEpoch(),
        "generation": Generation(num_epochs=2),
    }
    teacher_sources = {key: StudentItself(rule).begin(student) for key, rule in rules.items()}
    first = parameter.detach().clone()
    values = [first]
    for step in range(8):  # epochs of two steps
        clock = Clock(step, 8, step // 2, 4, step % 2 == 0)
        for source in teacher_sources.values():
            source.advance(student, clock)
        if step == 6:
            weights_by_rule = {key: source.weights[name] for key, source in teacher_sources.items()}
            assert torch.equal(weights_by_rule["start"], first)
            assert torch.equal(weights_by_rule["epoch"], values[6]) and torch.equal(
                weights_by_rule["generation"], values[4]
            )
            ema = first
            for past in (2, 4, 6):
                ema = 0.75 * ema + 0.25 * values[past]
            torch.testing.assert_close(weights_by_rule["ema"], ema)
        with torch.no_grad():
            parameter += 1.0
        values.append(parameter.detach().clone())


def test_kept_weights_are_in_the_state_and_come_back() -> None:
    run = trainer(10_000, Accelerator(cpu=True), max_steps=4)
    steps = run.run()
    next(steps)
    next(steps)
    state = copy.deepcopy(run.state())  # what a file would hold: the optimizer moves its own in place
    other = trainer(10_000, Accelerator(cpu=True), max_steps=4, seed=5)
    other.restore(state)
    assert [answer.losses for answer in other.run()] == [step.losses for step in steps]


def test_a_ramp_changes_the_objective_while_it_trains() -> None:
    run = trainer(10_000, Accelerator(cpu=True), max_steps=4)
    objective = Distil(divergence=ForwardKL(), target=Mix(share=0.0, first="labels", second="teacher"))
    run.reduction = Reduction(
        {"kl": objective}, {"kl": 1.0}, schedules={"kl": (LinearRamp(parameter="weight", end=1.0),)}
    )
    weights = [run.reduction.at(run.clock(step)).weights["kl"] for step in range(4)]
    assert weights == pytest.approx([0.25, 0.5, 0.75, 1.0])


def judge(example: Example, answer: list[int], is_finished: bool) -> Verdict:
    is_even = answer[0] % 2 == 0
    return Verdict(float(is_even), is_even)


def rollouts(policy: object, **changes: object) -> Rollouts:
    def hint(example: Example, answer: list[int], verdict: Verdict, sibling: list[int] | None) -> list[int] | None:
        return None if sibling is None else [*example.prompt_ids, *sibling]

    return Rollouts(policy, judge, hint, [0], 3, **changes)  # type: ignore[arg-type]


def test_rollouts_are_the_students_own_and_say_how_likely_they_were() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    clock = Clock(0, 1, 0, 1)
    written = rollouts(StudentWrites(num_samples=3, max_new_tokens=5)).examples(student, EXAMPLES[:2], clock)
    again = rollouts(StudentWrites(num_samples=3, max_new_tokens=5)).examples(student, EXAMPLES[:2], clock)
    later = rollouts(StudentWrites(num_samples=3, max_new_tokens=5)).examples(student, EXAMPLES[:2], Clock(1, 2, 0, 1))
    assert (
        [answer.answer_ids for answer in written]
        == [answer.answer_ids for answer in again]
        != [answer.answer_ids for answer in later]
    )
    assert [answer.facts.group for answer in written] == [0, 0, 0, 1, 1, 1] and student.training
    batch = collate(written, range(6), is_packed=True)
    with torch.no_grad():
        own = student.logits(batch).log_softmax(-1).gather(-1, batch.next_ids[:, None]).squeeze(-1)
    old = torch.cat([answer.facts.old_logprobs for answer in written if answer.facts.old_logprobs is not None])
    torch.testing.assert_close(own, old, atol=1e-4, rtol=1e-4)
    for group in (written[:3], written[3:]):
        assert sum(example.facts.advantage for example in group) == pytest.approx(0.0, abs=1e-6)
        right = [example for example in group if example.facts.is_correct]
        assert {example.facts.pass_rate for example in group} == {len(right) / 3}
        for example in group:  # a sibling is another answer that is right
            others = [other for other in right if other is not example]
            assert example.facts.has_hint == bool(others)
            assert example.hinted_ids is None or example.hinted_ids == [*example.prompt_ids, *others[0].answer_ids]


def test_a_mix_takes_its_share_from_the_student() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    for share, expected in ((0.0, 0), (1.0, 8)):
        policy = MixedWrites(student_fraction=share, max_new_tokens=3)
        examples = rollouts(policy).examples(student, EXAMPLES, Clock(0, 1, 0, 1))
        assert sum(example not in EXAMPLES for example in examples) == expected
    counts = [
        sum(
            example not in EXAMPLES
            for example in rollouts(MixedWrites(max_new_tokens=2)).examples(student, EXAMPLES, Clock(step, 9, 0, 1))
        )
        for step in range(6)
    ]
    assert 12 <= sum(counts) <= 36, "half of 48, by chance"


def test_the_teacher_writes_behind_its_hint_and_both_sides_are_learned() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    teacher = OtherModel(Student(random_model("llama", seed=1)[0].requires_grad_(False)).eval())
    made = rollouts(TeacherWrites(max_new_tokens=4, both_sides=True), teacher=teacher)
    made.hint = lambda example, answer, verdict, sibling: list(example.hinted_ids or [])
    plain, hinted = made.examples(student, EXAMPLES[:1], Clock(0, 1, 0, 1))
    assert plain.prompt_ids == EXAMPLES[0].prompt_ids and plain.hinted_ids == EXAMPLES[0].hinted_ids
    assert hinted.prompt_ids == EXAMPLES[0].hinted_ids and hinted.hinted_ids == EXAMPLES[0].prompt_ids
    assert hinted.facts.is_hinted and not plain.facts.is_hinted and plain.answer_ids == hinted.answer_ids
    # what drew them is the teacher behind the hint
    batch = collate([hinted], [0], is_packed=True)
    own = teacher.model.logits(batch).log_softmax(-1).gather(-1, batch.next_ids[:, None]).squeeze(-1)
    torch.testing.assert_close(own.detach(), plain.facts.old_logprobs, atol=1e-4, rtol=1e-4)


def test_what_does_not_end_is_cut_behind_its_half_and_finished_by_the_teacher() -> None:
    assert {cut_index(10, seed) for seed in range(200)} == {6, 7, 8, 9}
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    teacher = OtherModel(Student(random_model("llama", seed=1)[0].requires_grad_(False)).eval())
    made = rollouts(RepairedWrites(max_new_tokens=6, num_repair_tokens=400), teacher=teacher)
    examples = made.examples(student, EXAMPLES, Clock(0, 1, 0, 1))
    alone = rollouts(StudentWrites(max_new_tokens=6)).examples(student, EXAMPLES, Clock(0, 1, 0, 1))
    opened = {example.name: example.answer_ids for example in alone if example.answer_ids[-1] != 0}
    assert len(opened) >= 4 and made.facts()["num_repaired"] == len(examples) >= 4
    assert {example.name for example in examples} <= set(opened), (
        "what ended by itself is the student's own word, unjudged"
    )
    for example in examples:
        own = opened[example.name]
        num_same = next((i for i, (a, b) in enumerate(zip(example.answer_ids, own, strict=False)) if a != b), 6)
        assert num_same >= 4 and example.answer_ids[-1] == 0, "more than half is the student's, the end the teacher's"
        assert example.facts.old_logprobs is None


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()


def test_identity_of_a_source_that_is_not_there_is_an_error() -> None:
    run = trainer(10_000, Accelerator(cpu=True))
    run.reduction = Reduction({"kl": Distil(divergence=ForwardKL(), target=Identity(of="anchor"))}, {"kl": 1.0})
    with pytest.raises(ValueError, match="reads 'anchor', but nothing stands behind it"):
        next(run.run())
