"""Stage `evaluate`: quality, size and speed of one model, Hugging Face or ONNX, by the same yardstick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from transformers import AutoConfig, GenerationConfig

from compressors.export.runtime import OnnxRunner
from compressors.measure.cost import flops_per_token, measure_latency
from compressors.measure.decode import decode
from compressors.measure.likelihood import perplexity
from compressors.measure.runner import CausalRunner, TorchRunner
from compressors.self_data.prompts import chat_prompt, stop_token_ids
from registry.artifact import DatasetArtifact, EvaluationArtifact, Facts, ModelArtifact, OnnxArtifact
from registry.confinement import confined
from registry.fingerprint import folder_digests
from stages.contract import Forecast, StageConfig, stage
from stages.device import Precision, pick_device, pick_dtype
from stages.measured_data import asked_rows, plain_text, unique_names
from stages.model_folder import load_model, load_tokenizer
from stages.onnx_session import open_session
from stages.progress import bar, metric, track
from stages.rows import Row

RESULT = "evaluation.json"
NUM_TIMED_ROUNDS = 3


class EvaluateConfig(StageConfig):
    """What is measured, on how much."""

    max_rows: int = Field(default=0, ge=0)
    """Rows of each task; 0: all it has."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest generated answer, in tokens."""

    batch_size: int = Field(default=16, ge=1)
    """Texts scored or generated together."""

    perplexity_window: int = Field(default=512, ge=2)
    """Tokens in one perplexity window; windows do not overlap."""

    num_samples: int = Field(default=4, ge=0)
    """Answers kept word for word, to be read side by side."""

    num_prompt_tokens: int = Field(default=128, ge=1)
    """Prompt length at which prefill and decode are timed and FLOPs are counted."""

    task_folder: str = ""
    """Folder with lm-eval task YAML files of your own."""

    tasks: list[str] = []
    """Names of tasks in task_folder to run besides the inputs."""

    precision: Precision = "auto"
    """Dtype of a Hugging Face model; ONNX graphs bring their own."""

    @model_validator(mode="after")
    def _tasks_have_a_home(self) -> EvaluateConfig:
        if bool(self.tasks) != bool(self.task_folder):
            raise ValueError("tasks and task_folder belong together: give both or neither")
        if self.task_folder and not confined(Path(self.task_folder)).is_dir():
            raise ValueError(f"task_folder {self.task_folder} is not a folder")
        return self


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs:
    """The model, data sets with checkable questions, and text for the perplexity. Held-out rows are used where there are any."""

    model: ModelArtifact | OnnxArtifact
    tasks: tuple[DatasetArtifact, ...] = ()
    text: DatasetArtifact | None = None


def _forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if not (inputs.get("tasks") or inputs.get("text") or config.tasks):
        raise ValueError("nothing to measure quality on: give the input tasks or text, or config tasks")
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_rows = sum(float(facts.get("num_rows", 0)) for facts in inputs.get("tasks", ()))
    num_rows = min(num_rows, config.max_rows) if config.max_rows else num_rows
    return Forecast({}, num_flops=2.0 * num_parameters * num_rows * 200, peak_memory_bytes=6.0 * num_parameters)


def _outside(config: EvaluateConfig) -> str:
    return json.dumps(folder_digests(Path(config.task_folder)), sort_keys=True) if config.task_folder else ""


@stage("evaluate", version=1, forecast=_forecast, outside=_outside)
def evaluate(config: EvaluateConfig, inputs: EvaluateInputs, workdir: Path) -> EvaluationArtifact:
    """Measure accuracy (lm-eval), perplexity, parameters, FLOPs a token, disk size, prefill and decode latency."""
    folder = inputs.model.path
    tokenizer = load_tokenizer(folder)
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    runner = _runner(config, inputs.model)
    has_generation_config = (folder / "generation_config.json").exists()
    generation_config = GenerationConfig.from_pretrained(folder) if has_generation_config else None
    names = unique_names(inputs.tasks, "task")
    rows = {name: asked_rows(data, config.max_rows) for name, data in zip(names, inputs.tasks, strict=True)}
    evaluation: dict[str, Any] = {"format": inputs.model.kind, "num_blocks": inputs.model.facts["num_blocks"]}
    evaluation |= _size(config, inputs.model, model_config)
    evaluation["perplexity"] = _perplexity(config, inputs, runner, tokenizer)
    evaluation["tasks"] = _tasks(config, rows, runner, tokenizer, generation_config)
    # what an interval around an accuracy is computed from; lm-eval tasks of the user's own say it themselves
    evaluation["num_rows"] = {name: len(some) for name, some in _by_kind(rows).items()}
    evaluation["samples"] = _samples(config, rows, runner, tokenizer, generation_config)
    evaluation["latency"] = asdict(_latency(config, runner, model_config.vocab_size))
    (workdir / "content" / RESULT).write_text(json.dumps(evaluation, indent=1, ensure_ascii=False))
    headline = headline_metrics(evaluation)
    for name, value in headline.items():
        metric(name, value)
    return EvaluationArtifact.at(workdir / "content", format=inputs.model.kind, **headline)


def headline_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that gates and tables compare, by name."""
    numbers = {
        "num_parameters": evaluation["num_parameters"],
        "flops_per_token": evaluation["flops_per_token"],
        "disk_bytes": evaluation["disk_bytes"],
        "prefill_seconds": evaluation["latency"]["prefill_seconds"],
        "decode_seconds_per_token": evaluation["latency"]["decode_seconds_per_token"],
    }
    if evaluation["perplexity"] is not None:
        numbers["perplexity"] = evaluation["perplexity"]
    if evaluation["tasks"]:
        numbers["accuracy"] = sum(evaluation["tasks"].values()) / len(evaluation["tasks"])
        numbers |= {f"accuracy_{name}": value for name, value in evaluation["tasks"].items()}
    return {name: float(value) for name, value in numbers.items()}


def _runner(config: EvaluateConfig, model: ModelArtifact | OnnxArtifact) -> CausalRunner:
    if isinstance(model, OnnxArtifact):
        return OnnxRunner(open_session(model.path))
    device = pick_device()
    return TorchRunner(load_model(model.path, pick_dtype(config.precision, device), device))


def _size(config: EvaluateConfig, model: ModelArtifact | OnnxArtifact, model_config: Any) -> dict[str, Any]:
    num_matmul = int(model.facts["num_matmul_parameters"])
    weights = [path for path in model.path.iterdir() if path.suffix in (".safetensors", ".onnx", ".data")]
    return {
        "num_parameters": model.facts["num_parameters"],
        "flops_per_token": flops_per_token(num_matmul, model_config, config.num_prompt_tokens),
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }


def _perplexity(config: EvaluateConfig, inputs: EvaluateInputs, runner: CausalRunner, tokenizer: Any) -> float | None:
    if inputs.text is None:
        return None
    token_ids = tokenizer(plain_text(inputs.text), add_special_tokens=False).input_ids
    counter = bar("reading text", max(1, -(-len(token_ids) // config.perplexity_window)), "windows")
    return perplexity(
        runner,
        token_ids,
        window=config.perplexity_window,
        batch_size=max(1, config.batch_size // 4),
        on_scored=counter.advance,
    )


def _tasks(
    config: EvaluateConfig,
    rows: Mapping[str, Sequence[Row]],
    runner: CausalRunner,
    tokenizer: Any,
    generation_config: Any,
) -> dict[str, float]:
    """Return accuracy in [0, 1] by task: length-normalised for multiple choice, checked answers for generated ones."""
    from stages.harness import RunnerLM, run_tasks, task_config  # lm-eval: slow to import, and in an extra

    ours = [task_config(name, some, config.max_new_tokens) for name, some in _by_kind(rows).items()]
    tasks: list[Any] = [*config.tasks, *ours]
    if not tasks:
        return {}
    model = RunnerLM(runner, tokenizer, generation_config, config.batch_size)
    results = run_tasks(model, tasks, Path(config.task_folder) if config.task_folder else None)
    return {name: _accuracy(scores) for name, scores in results.items()}


def _by_kind(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Return rows by the name of the task they make: a data set with both kinds of question makes two."""
    found: dict[str, list[Row]] = {}
    for name, some in rows.items():
        choice, generative = [row for row in some if row.choices], [row for row in some if not row.choices]
        is_mixed = bool(choice and generative)
        for chosen, kind in ((choice, "_choice"), (generative, "_open")):
            if chosen:
                found[name + (kind if is_mixed else "")] = chosen
    return found


def _accuracy(scores: Mapping[str, Any]) -> float:
    for metric_name in ("acc_norm", "acc", "exact_match"):
        for key, value in scores.items():
            if key.partition(",")[0] == metric_name:
                return float(value)
    raise ValueError(f"the task reports none of acc_norm, acc, exact_match; it has {', '.join(scores)}")


def _samples(
    config: EvaluateConfig,
    rows: Mapping[str, Sequence[Row]],
    runner: CausalRunner,
    tokenizer: Any,
    generation_config: Any,
) -> list[dict[str, str]]:
    chosen: list[Row] = []
    pools = [list(some) for some in rows.values() if some]
    while pools and len(chosen) < config.num_samples:  # one of each data set in turn
        pool = pools.pop(0)
        chosen.append(pool.pop(0))
        if pool:
            pools.append(pool)
    samples = []
    for row in track(chosen, "writing samples", "answers"):
        [generation] = decode(
            runner,
            [chat_prompt(tokenizer, row.question)],
            max_new_tokens=config.max_new_tokens,
            stop_ids=stop_token_ids(tokenizer, generation_config),
        )
        answer = tokenizer.decode(generation.token_ids, skip_special_tokens=True).strip()
        samples.append({"question": row.question, "reference": row.reference or row.answer, "answer": answer})
    return samples


def _latency(config: EvaluateConfig, runner: CausalRunner, vocab_size: int) -> Any:
    counter = bar("timing", NUM_TIMED_ROUNDS + 1, "rounds")
    with torch.inference_mode():
        return measure_latency(
            runner,
            vocab_size=vocab_size,
            num_prompt_tokens=config.num_prompt_tokens,
            num_rounds=NUM_TIMED_ROUNDS,
            on_round=counter.advance,
        )
