"""What a training leaves. Its best weights with their facts, as PEFT's folder, the base's own weights, or by a writer of their kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from attar.compressors.adapt.quantization_aware import plain_name
from attar.compressors.distill.teachers.pool import POOL_HEADS
from attar.compressors.models.adapted import is_adapted
from attar.compressors.models.trained_weights import set_weights
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AdapterArtifact, Trainable
from attar.registry.artifacts.kinds.kind_facts import AdapterFacts
from attar.stages.artifacts.adapter_files import write_adapters
from attar.stages.artifacts.encoder.elastic import space_facts
from attar.stages.finetune.heldout_quality import MAX_ROWS
from attar.stages.finetune.plan import Adaptation
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.runtime.progress import metric, note

WEIGHTS_FILE = "weights.safetensors"


def write_trained(run: TrainingRun, adaptation: Adaptation, base: Trainable, content: Path) -> Facts:
    """Write what was trained, a PEFT folder or the base's own weights, and return what its facts say beside: nothing."""
    if is_adapted(run.student.model):
        write_adapters(run.student.model, base.fingerprint, content)
        return {}
    content.mkdir(parents=True, exist_ok=True)
    weights = {
        plain_name(name.removeprefix("model.")): value.contiguous()
        for name, value in run.best["weights"].items()
        if not name.startswith(POOL_HEADS)  # of the training alone
    }
    save_file(weights, content / WEIGHTS_FILE)
    return {}


def save_adapter(
    run: TrainingRun,
    adaptation: Adaptation,
    base: Trainable,
    content: Path,
    write: Callable[[TrainingRun, Adaptation, Trainable, Path], Facts] = write_trained,
) -> AdapterArtifact:
    """Write the best weights with their facts. `write`: puts what was trained into a folder."""
    set_weights(run.student, run.best["weights"])
    others = write(run, adaptation, base, content)
    is_by_quality = tell_best(run)
    known = {"vocab_size": base.facts.get("vocab_size"), "exits": adaptation.exits}  # an image has no tokens
    others = {**others, **space_facts(adaptation.elastic.space if adaptation.elastic is not None else None)}
    if (masking := adaptation.masking) is not None:
        known |= {"mask_token": masking.token, "mask_block_size": masking.block_size}
    facts = AdapterFacts(
        method=adaptation.kind,
        rank=adaptation.rank,
        expert_rank=adaptation.expert_rank or None,
        num_steps=run.trainer.step,
        best_step=run.best["step"],
        base_fingerprint=base.fingerprint,
        **{name: value for name, value in known.items() if value},  # type: ignore[arg-type] - as their facts are
        # which part of the data the kept state was chosen on: figures of that part flatter it
        chosen_on=tuple(dict.fromkeys(run.rows.evaluated_parts)),
        heldout_quality=-run.best["score"][0] if is_by_quality else None,
        num_quality_rows=min(MAX_ROWS, len(run.checkable)) if is_by_quality else None,
        others=others,
    )
    return AdapterArtifact.at(content, facts)


def tell_best(run: TrainingRun) -> bool:
    """Tell which weights are kept, and whether they are the first. Return whether they were judged by quality."""
    metric("best_step", run.best["step"])
    if run.trainer.step and not run.best["step"]:
        note(
            "warning: training never beat its start: no evaluation was better than the one before the first step, so that nothing learned is "
            f"kept ({run.trainer.step} steps); lower learning_rate, or judge by more rows or another stop_on"
        )
    is_by_quality = run.heldout.stop_on == "quality"
    nats = run.best["score"][int(is_by_quality) :]  # of an evaluation that has no loss: none
    note(f"kept the weights of step {run.best['step']}" + (f" (held-out loss {nats[0]:.4f} nats)" if nats else ""))
    return is_by_quality
