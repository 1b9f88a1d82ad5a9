"""Stage `evaluate`: quality, size and speed of one model, Hugging Face or ONNX, by the same yardstick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import folder_digests
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.kinds.shard_facts import WHOLE, Shard, ShardArtifact, ShardFacts
from attar.registry.artifacts.store import CONTENT
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, IMAGES, TAGGER, fills_masks, subject_of
from attar.stages.artifacts.dataset.measured_data import names_ahead
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.model.size_forecast import flops_of_token
from attar.stages.artifacts.prefix.figures import check_prefix
from attar.stages.artifacts.prefix.folder import refuse_others_prefix
from attar.stages.artifacts.serving.load import check_served
from attar.stages.artifacts.work_forecast import FORWARD, TOKENS_PER_ROW, num_questions_of
from attar.stages.contract import Forecast, Sharding, stage
from attar.stages.evaluate.answers.filled import evaluate_filled, filled_forecast
from attar.stages.evaluate.causal.measure import measure_causal
from attar.stages.evaluate.causal.measurements import PIECES, Measurements
from attar.stages.evaluate.causal.report import report_causal
from attar.stages.evaluate.classes.classifier import evaluate_classifier
from attar.stages.evaluate.classes.tagger import evaluate_tagger
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs, refuse_fills, refuse_provider
from attar.stages.evaluate.encoder import encoder_evaluation_forecast, evaluate_encoder
from attar.stages.evaluate.images.measures import evaluate_images, image_evaluation_forecast
from attar.stages.evaluate.speculation import check_draft

# How models of another subject than causal text are forecast and measured.
TEXTS = dict.fromkeys((ENCODER, CLASSIFIER, TAGGER), encoder_evaluation_forecast)
FORECASTS = {**TEXTS, IMAGES: image_evaluation_forecast}
TEXT_MEASURES = {ENCODER: evaluate_encoder, CLASSIFIER: evaluate_classifier, TAGGER: evaluate_tagger}
MEASURES = {**TEXT_MEASURES, IMAGES: evaluate_images}


def _forecast(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    refuse_other_data(inputs["model"][0], inputs.get("tasks", ()))
    if fills_masks(inputs["model"][0]):
        return filled_forecast(config, inputs)
    refuse_fills(config, inputs.get("beside", ()))
    if inputs.get("form") and config.timing.served is None:
        raise ValueError("form is read where serving is measured: set timing.served, or leave the input out")
    check_prefix(inputs, is_served=config.timing.served is not None)
    if (forecast := FORECASTS.get(subject_of(inputs["model"][0]))) is not None:
        return forecast(config, inputs)
    if not (inputs.get("tasks") or inputs.get("text") or config.harness.tasks):
        raise ValueError("nothing to measure quality on: give the input tasks or text, or config harness.tasks")
    refuse_provider(config, inputs["model"][0], is_graph="hidden_size" not in inputs["model"][0])
    if inputs.get("original"):
        check_draft(inputs)
    if config.stop is not None and not inputs.get("tasks"):
        raise ValueError("stop: there is no question to ask; give the input tasks")
    if config.stop is not None and not inputs.get("baseline"):
        raise ValueError(
            "stop: which answers changed is not known without the original's evaluation; give the input baseline"
        )
    if inputs.get("baseline") and config.stop is None:
        raise ValueError("baseline is read by stop alone: set stop, or leave the input out")
    if config.timing.served is not None:
        check_served(config.timing.served, inputs)
    others = (*inputs.get("original", ()), *inputs.get("beside", ()))
    num_original_bytes = 4.0 * sum(float(facts.get("num_parameters", 0)) for facts in others)
    num_parameters = float(inputs["model"][0].get("num_parameters", 0))
    num_rows = num_questions_of(inputs.get("tasks", ()), config.max_rows)
    counted = flops_of_token(inputs["model"][0], config.timing.num_prompt_tokens)
    facts: Facts = {"part": config.part} | ({"flops_per_token": counted} if counted else {})
    if not config.harness.tasks and (names := names_ahead(inputs.get("tasks", ()))):
        facts = {**facts, "measured": names}
    return Forecast(
        facts,
        num_flops=FORWARD * num_parameters * num_rows * TOKENS_PER_ROW,
        peak_memory_bytes=6.0 * num_parameters + num_original_bytes,
    )


def _outside(config: EvaluateConfig) -> str:
    return json.dumps(folder_digests(Path(config.harness.folder)), sort_keys=True) if config.harness.folder else ""


def _max_pieces(config: EvaluateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> int:
    subject = subject_of(inputs["model"][0])
    if subject in MEASURES:
        raise ValueError(f"shards: one worker measures {subject.words} whole; accepted: 1")
    if fills_masks(inputs["model"][0]):
        raise ValueError("shards: one worker measures a model that fills masks whole; accepted: 1")
    if config.stop is not None:
        raise ValueError("stop: what is asked next hangs on all answers so far; accepted: shards: 1, or no stop")
    return 0 if inputs.get("text") else int(num_questions_of(inputs.get("tasks", ()), config.max_rows))


def _work(config: EvaluateConfig, inputs: EvaluateInputs, shard: Shard, workdir: Path) -> ShardArtifact:
    content = workdir / CONTENT
    measured, _ = measure_causal(config, inputs, shard, content)
    measured.save(content)
    return ShardArtifact.at(content, ShardFacts(shard_index=shard.index, num_shards=shard.count))


def _gather(
    config: EvaluateConfig, inputs: EvaluateInputs, shards: Sequence[ShardArtifact], workdir: Path
) -> EvaluationArtifact:
    return report_causal(
        config, inputs, Measurements.gathered([shard.path for shard in shards]), None, workdir / CONTENT
    )


@stage(
    "evaluate",
    version=7,
    forecast=_forecast,
    outside=_outside,
    check=refuse_others_prefix,
    mask_filling=("model", "beside"),
    sharding=Sharding(_work, _gather, _max_pieces, PIECES),
)
def evaluate(config: EvaluateConfig, inputs: EvaluateInputs, workdir: Path) -> EvaluationArtifact:
    """Measure accuracy, perplexity, sizes, FLOPs a token, latency alone and served, and what the model is worth as a draft.

    Of an encoder rank correlation and retrieval; of a classifier accuracy, macro F1 and calibration; of a tagger F1 of spans; size, seconds a text.
    With a prefix all of it behind its vectors, and the KL to the model that reads the demonstrations instead.
    Raises ValueError when a text that it drafted, in float32, is not the original's own.
    """
    content = workdir / CONTENT
    if fills_masks(inputs.model.facts):
        return evaluate_filled(config, inputs, content)
    if (measure := MEASURES.get(inputs.model.subject)) is not None:
        return measure(config, inputs, content)
    return report_causal(config, inputs, *measure_causal(config, inputs, WHOLE, content), content)
