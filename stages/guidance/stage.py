"""Stage `guide`: classifier-free guidance learned into small adapters on a frozen base, so that one pass does what two did."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.modality import CausalText
from attar.compressors.distill.loop.trainer import Trainer, accelerator_on
from attar.compressors.distill.teachers.student import Student
from attar.compressors.guidance.adapters import ScaleRange, build_adapters
from attar.compressors.guidance.student import guided_student
from attar.compressors.models.adapted import is_adapted
from attar.compressors.models.trained_weights import WeightAverage, set_weights, trained_weights
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AdapterArtifact
from attar.registry.artifacts.kinds.kind_facts import AdapterFacts
from attar.stages.artifacts.adapter_files import write_adapters
from attar.stages.artifacts.guidance_files import save_guidance
from attar.stages.artifacts.model.folder import load_base, load_tokenizer
from attar.stages.contract import Forecast, check_vocabulary, stage
from attar.stages.finetune.adapt_config import learned_by
from attar.stages.finetune.plan import checkpoints_of, evaluations_of, schedule_of
from attar.stages.finetune.training_rows import Mixture
from attar.stages.finetune.training_run import TrainingRun
from attar.stages.finetune.training_work import training_flops
from attar.stages.guidance.config import GuideConfig, GuideInputs
from attar.stages.guidance.gate import GateReport, measure_gates
from attar.stages.guidance.rows import read_guided
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import metric, note


def _forecast(config: GuideConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data, weak = inputs["model"][0], inputs["data"], inputs.get("weak", ())
    for name in ("teacher", "weak", "second"):
        for other in inputs.get(name, ()):
            check_vocabulary(model, other, name)
    for dataset in data:
        if dataset and "num_rows" in dataset and "max_scale" not in dataset:
            raise ValueError("the data carries no guidance scales; make it with guide_data")
        if "unguided" in dataset and (dataset["unguided"] == "weak_model") != bool(weak):
            raise ValueError(
                f"the data was drawn with unguided {dataset['unguided']!r}; give the input weak just where that is 'weak_model'"
            )
        if config.adapter == "lora" and dataset.get("min_scale") != dataset.get("max_scale"):
            raise ValueError(
                f"adapter lora learns one fixed scale; the data has {dataset['min_scale']} to {dataset['max_scale']}"
            )
    second = inputs.get("second", ())
    if config.adapter == "lora" and second:
        raise ValueError("a lora is folded into its own base; the input second is for cross and offset adapters")
    for beside in second:
        for name in ("num_blocks", "hidden_size"):
            if name in beside and name in model and beside[name] != model[name]:
                raise ValueError(f"{name} mismatch: model {model[name]}, second {beside[name]}")
    facts: dict[str, Any] = {"method": config.adapter}
    if "vocab_size" in model:
        facts["vocab_size"] = model["vocab_size"]
    num_flops = training_flops(config.training.schedule, config.training.heldout.every, model, data)
    return Forecast(facts, num_flops=num_flops, peak_memory_bytes=12.0 * float(model.get("num_parameters", 0)))


@stage("guide", version=2, forecast=_forecast)
def guide(config: GuideConfig, inputs: GuideInputs, workdir: Path) -> AdapterArtifact:
    """Train adapters that are told the guidance scale to give the two-pass distribution in one pass.

    https://arxiv.org/abs/2503.07274

    The base's own tensors are checked to be what they were. Raises ValueError when the gate is not passed.
    """
    device = pick_device()
    # adapters are drawn from the global generator, as PEFT's are: seeded here, and left to the caller as it was
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else None, device_type=device.type):
        torch.manual_seed(config.training.schedule.seed)
        run = build_run(config, inputs, workdir)
        before = _frozen_digest(run.student)
        run.resume()
        run.train()
    set_weights(run.student, run.best["weights"])
    assert _frozen_digest(run.student) == before, "the base is frozen"
    report = measure_gates(config, inputs, run.student, run.rows.heldout_rows)
    report.check(config.max_kl_ratio)
    return _save(config, inputs, run, report, workdir / "content")


def build_run(config: GuideConfig, inputs: GuideInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: base, adapters and rows in place."""
    training, device = config.training, pick_device()
    tokenizer = load_tokenizer(inputs.model.path)
    guided = read_guided(config, inputs)
    dtype = pick_dtype(training.compute.precision, device)
    base = load_base(inputs.model.path, dtype, device, training.adapt.quantized_base)
    if config.adapter == "lora":
        student = Student(learned_by(training.adapt)[0](base, 0))
    else:
        scales = ScaleRange(low=guided.low, high=guided.high, is_base_at_one=config.is_base_at_one)
        student = guided_student(base, build_adapters(base, config.adapter_method, scales))
    if training.compute.gradient_checkpointing:
        student.checkpoint_blocks()
    num_trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    note(f"{num_trained:,} parameters learn, {num_trained / sum(p.numel() for p in base.parameters()):.1%} of the base")
    metric("num_adapter_parameters", num_trained)
    rows, decay = guided.rows, training.schedule.average_decay
    schedule = schedule_of(training.schedule, training.compute.tokens_per_micro_batch, device)
    trainer = Trainer(
        student,
        rows.train,
        Steps(Mixture(rows.train, rows.sources, [], training.schedule.seed), rows.train, schedule),
        training.reduction,
        CausalText(is_packed=False),
        accelerator_on(device),
        average=WeightAverage(decay, trained_weights(student)) if decay else None,
    )
    heldout, checkpoints = evaluations_of(training.heldout), checkpoints_of(training.checkpoints)
    return TrainingRun(trainer, rows, tokenizer, workdir, heldout=heldout, checkpoints=checkpoints)


def _frozen_digest(student: Student) -> str:
    digest = hashlib.blake2b()
    for parameter in student.parameters():
        if not parameter.requires_grad:
            digest.update(parameter.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _save(
    config: GuideConfig, inputs: GuideInputs, run: TrainingRun, report: GateReport, content: Path
) -> AdapterArtifact:
    model = run.student.model
    if is_adapted(model):
        write_adapters(model, inputs.model.fingerprint, content)
    else:
        save_guidance(content, run.student.guidance, config.adapter, report.bases)
    (content / "gate.json").write_text(report.as_json())
    facts = AdapterFacts(
        method=config.adapter,
        rank=config.training.adapt.rank if config.adapter == "lora" else config.rank,
        num_steps=run.trainer.step,
        best_step=run.best["step"],
        base_fingerprint=inputs.model.fingerprint,
        vocab_size=inputs.model.facts.vocab_size,
        others=report.facts,
    )
    return AdapterArtifact.at(content, facts)
