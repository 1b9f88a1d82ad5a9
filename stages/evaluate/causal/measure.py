"""A worker measures its share of a causal model's questions and text; the first one size and speed too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.export.runtime import CPU, OnnxRunner
from attar.compressors.measure.cost import flops_per_token
from attar.compressors.measure.memory import held_bytes
from attar.compressors.models.runner import CausalRunner, PrefixableRunner, TorchRunner
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.stages.artifacts.dataset.measured_data import in_turn
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.prefix.figures import prefix_figures
from attar.stages.artifacts.prefix.folder import prefixed
from attar.stages.artifacts.serving.load import served_figures
from attar.stages.evaluate.answers.answering import Answering, by_kind, named_tasks
from attar.stages.evaluate.blocks import Blocks, ask_in_blocks, order_seed
from attar.stages.evaluate.causal.measurements import (
    PIECES,
    Measurements,
    answer_share,
    read_share,
    rows_by_task,
    windows_of,
)
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs, Measured
from attar.stages.evaluate.paired_evaluations import evaluation_of
from attar.stages.evaluate.speculation import speculation
from attar.stages.evaluate.timing import timed
from attar.stages.runtime.device import pick_device, pick_dtype


def measure_causal(
    config: EvaluateConfig, inputs: EvaluateInputs, shard: Shard, content: Path
) -> tuple[Measurements, Blocks | None]:
    """Measure a shard of the questions and the text, the first also the model as a whole. With `stop` return the blocks that were asked too."""
    from transformers import AutoConfig, GenerationConfig  # a second that a plan need not wait for

    folder, rows, is_first = inputs.model.path, rows_by_task(config, inputs), shard.index == 0
    tokenizer = load_tokenizer(folder)
    windows = None if inputs.text is None else windows_of(config, inputs.text, tokenizer)
    shard.check(max(sum(map(len, rows.values())), len(windows or ())), PIECES)  # before anything heavy
    figures: dict[str, Any] = {}
    if is_first:  # before the model is loaded: it and an engine would need the memory of both
        in_stead = inputs.model if inputs.form is None else inputs.form
        figures["served"] = served_figures(config.timing.served, in_stead, inputs.beside, in_turn(rows), content)
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    plain, has_settings = _runner(config, inputs.model), (folder / "generation_config.json").exists()
    behind = None if inputs.prefix is None else prefixed(plain, inputs.prefix)
    runner = plain if behind is None else behind
    generation_config = GenerationConfig.from_pretrained(folder) if has_settings else None
    if is_first:
        size = _size(config, inputs.model, model_config)
        num_bytes = size["disk_bytes"] * _widening(config, inputs.model)
        held = held_bytes(runner, num_bytes, config.timing.num_prompt_tokens)
        figures["size"] = {**size, "memory_bytes": held}
    pieces = read_share(runner, windows, max(1, config.batch_size // 4), shard)
    stop_ids = stop_token_ids(tokenizer, generation_config)
    answering = Answering(runner, tokenizer, stop_ids, config.max_new_tokens, config.batch_size)
    if is_first:
        figures["named"] = named_tasks(config, answering, generation_config)
    right, blocks = _right(config, inputs, rows, answering, shard, figures)
    if is_first:
        figures["latency"] = _latency(config, inputs, runner, model_config.vocab_size)
        if inputs.prefix is not None and behind is not None:
            figures["prefix"] = prefix_figures(behind, inputs.prefix, in_turn(rows), tokenizer)
        draft = runner.torch_model  # the forecast refuses a graph that is to draft
        if inputs.original is not None and draft is not None:
            figures["speculation"] = speculation(config, draft, inputs.original, in_turn(rows))
    return Measurements(figures, right, pieces, answering.answers), blocks


def _right(
    config: EvaluateConfig,
    inputs: EvaluateInputs,
    rows: Mapping[str, Sequence[Row]],
    answering: Answering,
    shard: Shard,
    figures: dict[str, Any],
) -> tuple[dict[str, dict[int, float]], Blocks | None]:
    """Return which questions of the shard are right, by task and number; with `stop` those that were asked, in the order of the blocks."""
    answered, sampled = by_kind(rows), in_turn(rows)[: config.num_samples]
    if config.stop is None:
        return answer_share(answering, answered, sampled, shard), None
    assert inputs.baseline is not None, "the forecast refuses it"
    seed = order_seed(config.stop, inputs.model.fingerprint)
    blocks = Blocks.of(answered, evaluation_of(inputs.baseline), seed)
    figures["stopping"] = ask_in_blocks(config.stop, blocks, answering.right)
    answering.right({}, sampled)
    return {task: dict(enumerate(right)) for task, right in blocks.right.items()}, blocks


def _runner(config: EvaluateConfig, model: Measured) -> PrefixableRunner:
    if model.is_graph:
        return OnnxRunner(open_session(model.path, config.provider), config.provider)
    device = pick_device()
    return TorchRunner(load_model(model.path, pick_dtype(config.precision, device), device))


def _widening(config: EvaluateConfig, model: Measured) -> int:
    """Return how many bytes of memory a byte of weights takes: onnxruntime's CPU keeps a graph's float16 ones in float32."""
    return 2 if config.provider == CPU and model.facts.get("precision") == "float16" else 1


def _size(config: EvaluateConfig, model: Measured, model_config: Any) -> dict[str, Any]:
    num_matmul = model.facts.num_matmul_parameters  # type: ignore[union-attr] - the forecast refuses images
    weights = [path for path in model.path.iterdir() if path.suffix in (".safetensors", ".onnx", ".onnx_data")]
    return {
        "num_parameters": model.facts.num_parameters,
        "flops_per_token": flops_per_token(num_matmul, model_config, config.timing.num_prompt_tokens),
        "disk_bytes": sum(path.stat().st_size for path in weights),
    }


def _latency(config: EvaluateConfig, inputs: EvaluateInputs, runner: CausalRunner, vocab_size: int) -> dict[str, Any]:
    beside = _runner(config, inputs.beside) if inputs.beside is not None else None
    if inputs.beside is not None:  # the prompt's tokens are drawn from those that both know
        vocab_size = min(vocab_size, inputs.beside.facts.vocab_size)  # type: ignore[union-attr] - the forecast refuses images
    timing = timed(runner, beside, vocab_size=vocab_size, num_prompt_tokens=config.timing.num_prompt_tokens)
    if inputs.beside is not None:
        timing["beside"]["model_fingerprint"] = inputs.beside.fingerprint
    return timing
