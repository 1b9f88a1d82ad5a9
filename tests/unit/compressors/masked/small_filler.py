"""A small model that learns to fill masks, and the texts that it learns."""

from __future__ import annotations

from typing import Any

from attar.compressors.adapt.weights import FullWeights
from attar.compressors.distill.examples.masked import with_whole_blocks
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.masked import MaskedText
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.shapes import StudentEntropy
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.weights.token_weights import Correct
from attar.compressors.distill.teachers.student import Student
from attar.compressors.masked.form import MaskedForm
from attar.compressors.masked.hiding import HidingRule, RandomCount
from attar.stages.ingest.tiny_model import random_model
from tests.builders import schedule_of, trainer_of

MASK, END = 0, 2
FORM = MaskedForm(mask_token="<|endoftext|>", mask_token_id=MASK, block_size=4)
# prompts of several lengths, answers of one block and of two
TEXTS = [([30, 31], [40, 41, 42, END]), ([32, 33, 34], [50, 51, 52, 53, 54, END]), ([35], [60, END])]
CROSS_ENTROPY = Reduction({"hidden": NextToken()}, {"hidden": 1.0})
CERTAINTY = Distil(divergence=StudentEntropy(), token_weights=(Correct(),), temperature=0.5)
FORCED = Reduction({"hidden": NextToken(), "certainty": CERTAINTY}, {"hidden": 1.0, "certainty": 8.0})


def examples(form: MaskedForm = FORM) -> list[Example]:
    return [with_whole_blocks(Example(prompt, answer), form.block_size, [END]) for prompt, answer in TEXTS]


def small_model(family: str = "llama", seed: int = 0) -> Any:
    """Return a random model, louder at both ends: with logits near 0 no training of a few steps makes it sure of anything."""
    model = random_model(family, num_blocks=2, hidden_size=32, seed=seed)[0]
    tables = {id(table.weight): table.weight for table in (model.get_input_embeddings(), model.get_output_embeddings())}
    for weight in tables.values():
        weight.data.mul_(20.0)
    return model


def trained(
    model: Any,
    num_steps: int,
    *,
    rule: HidingRule | None = None,
    reduction: Reduction = CROSS_ENTROPY,
    texts: list[Example] | None = None,
    form: MaskedForm = FORM,
    rate: float = 1e-2,
) -> list[dict[str, float]]:
    """Train all blocks of a model to fill masks; return the losses of each step."""
    learned = examples(form) if texts is None else texts
    student = Student(FullWeights()(model, 0))
    steps = Steps(lambda epoch: list(range(len(learned))), learned, schedule_of(num_steps, rate))
    modality = MaskedText(form, rule or RandomCount(), seed=3)
    losses = [record.losses for record in trainer_of(student, learned, steps, reduction, modality=modality).run()]
    model.eval()
    return losses
