"""The training of vectors before the prompt. What a student reads in place of demonstrations, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from attar.compressors.adapt.compressor import PrefixCompressor
from attar.compressors.distill.teachers.contexts import ContextBuilder, Demonstrations
from attar.compressors.distill.teachers.student import Student
from attar.compressors.models.adapted import SoftTokens, plain_model, soft_tokens
from attar.compressors.models.trained_weights import set_weights
from attar.registry.artifacts.handles import Artifact, CompressorArtifact, ModelArtifact, PrefixArtifact
from attar.registry.artifacts.kinds.prefix_facts import CompressorFacts, PrefixFacts
from attar.stages.artifacts.dataset.prompts import wording_of
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.prefix.demonstrations import demonstration_ids
from attar.stages.artifacts.prefix.folder import (
    load_compressor,
    refuse_other_model,
    write_compressor,
    write_prefix,
)
from attar.stages.artifacts.prefix.learning import BeforePrompt
from attar.stages.finetune.adapt_config import learned_by
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.kept_weights import tell_best
from attar.stages.finetune.plan import Adaptation
from attar.stages.finetune.subjects.shown import demonstrated
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import note

# What is made where it is no adapter, by the kind of what learns.
MAKES: dict[str, type[Artifact]] = {"prefix": PrefixArtifact, "compressor": CompressorArtifact}


def check_given(config: FinetuneConfig, inputs: FinetuneInputs) -> None:
    """Raise ValueError for demonstrations longer than the model reads, and for a compressor of another model to begin with."""
    if inputs.start is not None:
        refuse_other_model(inputs.start, inputs.model)
    _, before = learned_by(config.adapt)
    if before is None:
        return
    tokenizer, learned = load_tokenizer(inputs.model.path), config.rows
    rows = TrainingRows.read(
        inputs.data, tokenizer, learn=learned.learn, max_tokens=learned.max_tokens, reads_record=False
    )
    some = demonstrated(rows, before, cast(Demonstrations, config.teacher.context), tokenizer)
    some.refuse_longer(before.num_vectors, inputs.model.path)


def behind_vectors(
    before: BeforePrompt,
    context: ContextBuilder | None,
    inputs: FinetuneInputs,
    rows: TrainingRows,
    tokenizer: Any,
    student: Student,
) -> TrainingRows:
    """Return the rows with each prompt behind its vectors, and demonstrations before what the teacher reads."""
    some = demonstrated(rows, before, cast(Demonstrations, context), tokenizer)
    tokens = _tokens(student)
    tokens.source.show(some.shown_ids, tokens.table)
    if inputs.start is not None:
        load_compressor(inputs.start, tokens.source)
    num_tokens = sum(map(len, some.shown_ids)) / len(some.shown_ids)
    note(
        f"{before.num_vectors} vectors stand for {num_tokens:.0f} tokens of demonstrations, a mean over {len(some.shown_ids)} sets"
    )
    return some.behind(tokens)


@torch.no_grad()
def save_vectors(
    run: TrainingRun,
    adaptation: Adaptation,
    context: ContextBuilder | None,
    inputs: FinetuneInputs,
    content: Path,
) -> PrefixArtifact | CompressorArtifact:
    """Write the best vectors with the demonstrations that they stand for, or the best compressor."""
    set_weights(run.student, run.best["weights"])
    tell_best(run)
    tokens, read = _tokens(run.student), cast(Demonstrations, context)
    learned: dict[str, Any] = {
        "model_fingerprint": inputs.model.fingerprint,
        "num_vectors": tokens.num_vectors,
        "hidden_size": tokens.weight.shape[1],
        "vocab_size": cast(ModelArtifact, inputs.model).facts.vocab_size,
        "num_steps": run.trainer.step,
        "best_step": run.best["step"],
        "chosen_on": tuple(dict.fromkeys(run.rows.evaluated_parts)),
    }
    if adaptation.kind == "compressor":
        method = cast(PrefixCompressor, adaptation.method)
        write_compressor(content, tokens.source, read)
        start = None if inputs.start is None else inputs.start.fingerprint
        facts = CompressorFacts(**learned, num_compressor_blocks=method.num_blocks, start=start)
        return CompressorArtifact.at(content, facts)
    [shown] = cast(TrainingRows, run.rows).shown
    group = torch.zeros(1, dtype=torch.long, device=tokens.weight.device)
    write_prefix(content, tokens.source(group)[0], shown, read)
    return PrefixArtifact.at(
        content,
        PrefixFacts(
            **learned,
            demonstrations=shown.names,
            num_demonstrations=len(shown.names),
            num_demonstration_tokens=len(demonstration_ids(shown, wording_of(run.tokenizer))),
            data_fingerprint=inputs.data[0].fingerprint,
        ),
    )


def _tokens(student: Student) -> SoftTokens:
    tokens = soft_tokens(plain_model(student.model))
    assert tokens is not None, "the adapt method put them there"
    return tokens
