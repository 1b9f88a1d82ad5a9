"""How the passes of a training of text are computed. Rows packed where the model keeps them apart, part of the vocabulary compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.loop.heldout import packing_matches
from attar.compressors.distill.losses.targets.vocabulary import VocabularySample
from attar.compressors.distill.teachers.student import Student
from attar.stages.runtime.progress import note

# Logits of packed and separate rows differ by rounding; examples that see each other differ by far more.
PACKING_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def vocabulary_sample(
    num_entries: int, examples: Sequence[Example], vocab_size: int, seed: int
) -> VocabularySample | None:
    """Return what chooses the entries that each step compares; None: all of them."""
    if not 0 < num_entries < vocab_size:
        return None
    note(f"comparing over {num_entries:,} of {vocab_size:,} vocabulary entries at each step")
    answers = (example.answer_ids for example in examples)
    return VocabularySample.of(answers, num_entries=num_entries, vocab_size=vocab_size, seed=seed)


def can_pack(student: Student, examples: Sequence[Example], dtype: torch.dtype) -> bool:
    """Say whether several rows may share a sequence; tried on the shortest two."""
    probe = sorted(examples, key=lambda example: example.num_tokens)[:2]
    if len(probe) < 2 or packing_matches(student, probe, PACKING_TOLERANCE.get(dtype, 5e-2)):
        return True
    note("this model attends across packed rows: one row a sequence instead")
    return False
