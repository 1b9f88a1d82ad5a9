"""Students: what each method trains, frozen blocks run once, and steps that survive a lack of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from attar.compressors.adapt.lora import Lora
from attar.compressors.adapt.weights import FullWeights, LastBlocks
from attar.compressors.distill.examples.packing import Batch, Example, collate
from attar.compressors.distill.examples.steps import Schedule, Steps
from attar.compressors.distill.loop.trainer import NotFiniteError, Trainer
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.teachers.student import Student, record_prefix
from attar.compressors.distill.teachers.teacher_sources import OtherModel
from attar.compressors.models.adapted import plain_model
from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.stages.ingest.tiny_model import FAMILIES, random_model
from tests.builders import states_of, trainer_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXAMPLES = [Example([5, 6, 7], [8, 9]), Example([10], [11, 12, 13]), Example([20, 21], [22]), Example([30], [31, 32])]
SCHEDULE = Schedule(
    num_epochs=2,
    max_steps=0,
    decay="cosine",
    learning_rate=1e-2,
    warmup_fraction=0.0,
    tokens_per_step=8,
    tokens_per_micro_batch=8,
    max_grad_norm=1.0,
    weight_decay=0.0,
)


def trainer(student: Student, schedule: Schedule = SCHEDULE) -> Trainer:
    loss = Reduction({"next_token": NextToken()}, {"next_token": 1.0})
    steps = Steps(lambda epoch: range(4), EXAMPLES, schedule)
    return trainer_of(student, EXAMPLES, steps, loss)


def trained_blocks(student: Student) -> set[int]:
    blocks = decoder_blocks(plain_model(student.model))
    return {i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())}


# OPT attends across packed rows, so training never packs them (see packing_matches)
LAYOUTS = [
    (family, is_packed) for family in FAMILIES for is_packed in (True, False) if not (is_packed and family == "opt")
]


@pytest.mark.parametrize(("family", "is_packed"), LAYOUTS)
def test_recorded_prefix_gives_the_states_that_running_it_gives(family: str, is_packed: bool) -> None:
    model, _ = random_model(family)
    student = Student(Lora(rank=2)(model, 2)).eval()
    assert student.first_block == 2 and trained_blocks(student) == {2, 3}
    recorded = dict(record_prefix(student, EXAMPLES, tokens_per_batch=8, is_packed=is_packed))
    assert sorted(recorded) == [0, 1, 2, 3]
    with_prefix = [Example(e.prompt_ids, e.answer_ids, prefix=recorded[i]) for i, e in enumerate(EXAMPLES)]
    with torch.no_grad():
        run = student(collate(EXAMPLES, [2, 0, 1], is_packed=is_packed))
        # other blocks than the recorded ones must not be asked: they would give something else
        for block in decoder_blocks(plain_model(student.model))[:2]:
            for parameter in block.parameters():
                parameter.normal_(std=5.0)
        replayed = student(collate(with_prefix, [2, 0, 1], is_packed=is_packed))
    torch.testing.assert_close(replayed, run, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_blocks_give_the_same_gradients_and_keep_less(family: str) -> None:
    def gradients(is_checkpointed: bool, first_block: int) -> tuple[dict[str, torch.Tensor], int]:
        torch.manual_seed(0)
        student = Student(Lora(rank=2, dropout=0.1)(random_model(family)[0], first_block)).train()
        recorded = dict(record_prefix(student, EXAMPLES, tokens_per_batch=8, is_packed=False)) if first_block else {}
        rows = [Example(e.prompt_ids, e.answer_ids, prefix=recorded.get(i)) for i, e in enumerate(EXAMPLES)]
        if is_checkpointed:
            student.checkpoint_blocks()
        saved: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        student.train()
        weights = {p.untyped_storage().data_ptr() for p in student.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = student(collate(rows, [2, 0, 1], is_packed=False))
        hidden.square().sum().backward()
        by_name = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
        return by_name, sum(size for position, size in saved.items() if position not in weights)

    for first_block in (0, 2):
        whole, num_whole = gradients(False, first_block)
        again, num_again = gradients(True, first_block)
        assert whole.keys() == again.keys() and any(grad.abs().max() > 0 for grad in whole.values())
        assert all(torch.equal(grad, again[name]) for name, grad in whole.items()), "the same sums in the same order"
        assert num_again < 0.5 * num_whole, (num_again, num_whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_that_begins_like_the_student_goes_on_from_its_frozen_blocks(family: str) -> None:
    original, pruned = random_model(family)[0], random_model(family)[0]
    remove_blocks(pruned, [2])
    student = Student(FullWeights()(pruned, 1)).eval()
    teacher = OtherModel(Student(original.requires_grad_(False)).eval())
    recorded = dict(record_prefix(student, EXAMPLES, tokens_per_batch=8, is_packed=False))
    batch = collate([replace(e, prefix=recorded[i]) for i, e in enumerate(EXAMPLES)], [2, 0, 1], is_packed=False)
    whole = states_of(teacher, student, batch)
    assert teacher.follow(student, EXAMPLES[0]) and teacher.begins_alike
    decoder_blocks(original)[0].forward = never_run  # the block that both have
    torch.testing.assert_close(states_of(teacher, student, batch), whole, atol=1e-4, rtol=1e-4)


def never_run(*args: object, **kwargs: object) -> None:
    raise AssertionError("its states are recorded")


def test_a_teacher_that_begins_otherwise_reads_from_the_start() -> None:
    def follows(change: Callable[[PreTrainedModel], object], first_block: int = 2) -> bool:
        original = random_model("llama")[0]
        change(original)
        student = Student(FullWeights()(random_model("llama")[0], first_block)).eval()
        teacher = OtherModel(Student(original.requires_grad_(False)).eval())
        first = teacher.model.first_block
        is_alike = teacher.follow(student, EXAMPLES[0])
        assert is_alike == teacher.begins_alike and (is_alike or teacher.model.first_block == first)
        return is_alike

    def other_weight(model: PreTrainedModel) -> None:
        next(decoder_blocks(model)[1].parameters()).data[0] += 1.0

    def other_token(model: PreTrainedModel) -> None:
        model.get_input_embeddings().weight.data[250] += 1.0  # which the example does not have

    def other_positions(model: PreTrainedModel) -> None:
        model.base_model.rotary_emb.inv_freq.mul_(0.5)  # no weight

    assert follows(lambda model: None)
    assert not follows(lambda model: None, first_block=0)
    assert not any(map(follows, (other_weight, other_token, other_positions)))


def test_each_method_trains_what_it_says() -> None:
    cases = [
        (FullWeights(), 0, {0, 1, 2, 3}),
        (FullWeights(), 3, {3}),
        (LastBlocks(num_blocks=1), 0, {3}),
        (Lora(rank=2), 1, {1, 2, 3}),
    ]
    for method, first_block, expected in cases:
        student = Student(method(random_model("llama")[0], first_block))
        assert trained_blocks(student) == expected, method
        assert student.first_block == min(expected)
    norms = [
        name for name, p in Student(FullWeights()(random_model("gpt2")[0], 2)).named_parameters() if p.requires_grad
    ]
    assert any("ln_f" in name for name in norms) and not any("wte" in name for name in norms)


def test_targets_that_name_nothing_are_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="targets qkv name no matrix of the model's blocks. Known: down_proj"):
        Lora(targets=("qkv", "q_proj"))(random_model("llama")[0], 0)
    with pytest.raises(ValueError, match="num_last_blocks is 5, but the model has 4 blocks"):
        LastBlocks(num_blocks=5)(random_model("llama")[0], 0)


class TightMemory(Student):
    """A student whose memory ends at so many tokens."""

    limit, largest = 8, 0
    lack: RuntimeError

    def forward(self, batch: Batch) -> torch.Tensor:
        if batch.input_ids.numel() > self.limit:
            raise self.lack
        self.largest = max(self.largest, batch.input_ids.numel())
        return super().forward(batch)


@pytest.mark.parametrize(
    "lack",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        # as the CPU's allocator words it
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "4194304000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
    ],
    ids=["accelerator", "CPU"],
)
def test_a_step_that_does_not_fit_is_taken_in_smaller_parts_and_is_the_same_step(lack: RuntimeError) -> None:
    def weights_after(limit: int) -> tuple[Trainer, list[torch.Tensor]]:
        student = TightMemory(FullWeights()(random_model("llama")[0], 0))
        student.limit, student.lack = limit, lack
        run = trainer(student)
        list(run.run())
        return run, [p.detach() for p in student.parameters() if p.requires_grad]

    wide, narrow = weights_after(100), weights_after(5)
    assert wide[0].step == narrow[0].step and narrow[0].tokens_per_micro_batch < 8
    # the same sums in another order, through Adam's division by a small root at the first steps
    for actual, reference in zip(narrow[1], wide[1], strict=True):
        torch.testing.assert_close(actual, reference, atol=2e-3, rtol=0)
    with pytest.raises(type(lack)) as caught:
        weights_after(2)  # one example alone is too large: nothing to split
    assert caught.value is lack


def test_the_cpus_allocator_words_a_lack_of_memory_as_the_test_above_does() -> None:
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator: can't allocate memory"):
        torch.empty(1 << 60, dtype=torch.uint8, device="cpu")


def test_any_other_error_of_a_step_is_not_taken_for_a_lack_of_memory() -> None:
    student = TightMemory(FullWeights()(random_model("llama")[0], 0))
    student.limit, student.lack = 5, RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    run = trainer(student)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(run.run())
    assert run.tokens_per_micro_batch == SCHEDULE.tokens_per_micro_batch, "no smaller part was tried"


def test_a_step_that_gives_no_number_stops_before_the_weights_and_names_its_examples() -> None:
    model, _ = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[30] = math.nan  # in the last example alone
    student = Student(FullWeights()(model, 0))
    run = trainer(student)
    steps = run.run()
    next(steps), next(steps)
    before = [p.detach().clone() for p in student.parameters() if p.requires_grad]
    with pytest.raises(NotFiniteError, match="the gradient of step 3 is nan") as caught:
        next(steps)
    assert 3 in caught.value.examples
    after = [p for p in student.parameters() if p.requires_grad]
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


@pytest.mark.parametrize(("decay", "expected"), [("linear", [1.0, 0.5]), ("none", [1.0, 1.0]), ("cosine", [1.0, 0.5])])
def test_learning_rate_follows_its_schedule_over_the_steps_there_are(decay, expected: list[float]) -> None:
    schedule = Schedule(**{**SCHEDULE.__dict__, "decay": decay, "max_steps": 3})
    rates = [
        record.learning_rate / 1e-2
        for record in trainer(Student(FullWeights()(random_model("llama")[0], 3)), schedule).run()
    ]
    assert len(rates) == 3
    # the first step is the warm-up's only one
    assert rates[:1] + rates[2:] == pytest.approx(expected, abs=1e-6)


def test_a_schedule_reaches_the_examples_of_its_steps_and_no_other() -> None:
    schedule = Schedule(**{**SCHEDULE.__dict__, "max_steps": 4, "tokens_per_step": 5})
    student = Student(FullWeights()(random_model("llama")[0], 3))
    run = trainer(student, schedule)
    taken = {index for step in range(len(run.steps)) for index in run.steps.at(step)[1]}
    assert taken == {0, 1, 2, 3} == run.steps.used()
    short = Schedule(**{**schedule.__dict__, "max_steps": 1})
    assert Steps(lambda epoch: range(4), EXAMPLES, short).used() == {0}
    assert Steps(lambda epoch: [3, 2, 1, 0] if epoch else [0, 1, 2, 3], EXAMPLES, short).used() == {0}


def test_epochs_of_other_lengths_than_the_first_reach_what_they_take() -> None:
    """Two steps an epoch by the first; the second has three and is cut, the third has one and begins again."""
    orders = [[0, 1], [1, 0, 2], [3]]
    steps = Steps(
        lambda epoch: orders[epoch], EXAMPLES, Schedule(**{**SCHEDULE.__dict__, "num_epochs": 3, "tokens_per_step": 5})
    )
    assert [steps.at(step) for step in range(len(steps))] == [
        (0, [0]),
        (0, [1]),
        (1, [1]),
        (1, [0]),
        (2, [3]),
        (2, [3]),
    ]
    assert steps.used() == {0, 1, 3}
