"""Stage `label_pairs`: how alike the texts of pairs are, as one model or several say. What an encoder or a scorer learns of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from attar.compressors.encode.encoder import encoded
from attar.compressors.measure.ranking import cosines
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ClassifierArtifact, DatasetArtifact, EncoderArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, subject_of
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.text_models import TEXT_MODELS
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import Precision, pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note

Pair = tuple[str, str]


class LabelPairsConfig(StageConfig):
    """How the models read the pairs."""

    batch_size: int = Field(default=16, ge=1)
    """Texts of 128 tokens in one forward pass, or as many tokens."""

    precision: Precision = "auto"
    """Dtype of the models."""


@dataclass(frozen=True, kw_only=True)
class LabelPairsInputs:
    """The models, encoders or scorers of pairs, whose labels are averaged. The pairs: a question and an answer a row."""

    models: tuple[EncoderArtifact | ClassifierArtifact, ...]
    data: DatasetArtifact


def _forecast(config: LabelPairsConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    for model in inputs["models"]:
        if subject_of(model) is CLASSIFIER and not model.get("reads_pairs"):
            raise ValueError(
                "input models has a classifier of texts, which reads no pairs; accepted: encoders, pair scorers"
            )
    num_parameters = sum(float(model.get("num_parameters", 0)) for model in inputs["models"])
    num_rows = float(inputs["data"][0].get("num_rows", 0))
    return Forecast(
        {"num_recorded": 0, **rows_alike(inputs["data"][0])},
        num_flops=2.0 * num_parameters * num_rows * 64,
        peak_memory_bytes=4.0 * num_parameters,
    )


@stage("label_pairs", version=1, forecast=_forecast)
def label_pairs(config: LabelPairsConfig, inputs: LabelPairsInputs, workdir: Path) -> DatasetArtifact:
    """Give each pair the mean of what the models say of it, in [0, 1]. Held-out pairs keep their own grade.

    An encoder says the cosine of the two vectors, 0 where it is below. A scorer of pairs says its probability of "alike", the mean of both
    orders of the texts. Raises ValueError for rows that are no pairs. https://arxiv.org/abs/2109.13059
    """
    rows = read_rows(inputs.data.path / "rows.jsonl")
    learned = [row for row in rows if row.split != "heldout"]
    if lone := [row.id for row in learned if not (row.question.strip() and row.answer.strip())]:
        raise ValueError(f"input data: row {lone[0]} is no pair of texts; accepted: a question and an answer a row")
    if not learned:
        raise ValueError("input data: no row is learned or chosen on; set heldout_fraction below 1")
    pairs = [(row.question, row.answer) for row in learned]
    labels = np.mean([_labels(config, model, pairs) for model in inputs.models], axis=0).tolist()
    by_id = dict(zip((row.id for row in learned), labels, strict=True))
    made = [row.with_changes(similarity=by_id[row.id]) if row.id in by_id else row for row in rows]
    _report(learned, labels)
    content = workdir / "content"
    content.mkdir(parents=True, exist_ok=True)
    write_rows(content / "rows.jsonl", made)
    name = inputs.data.facts.name or "pairs"
    write_card(content, made, name=name)
    heldout, choose = (sum(row.split == split for row in made) for split in ("heldout", "choose"))
    facts = DatasetFacts(name=name, num_rows=len(made), num_heldout=heldout, num_choose=choose, num_recorded=0)
    return DatasetArtifact.at(content, facts)


def _labels(config: LabelPairsConfig, model: Any, pairs: Sequence[Pair]) -> list[float]:
    """Return what one model says of each pair, in [0, 1]."""
    device = pick_device()
    runner = TEXT_MODELS[model.subject].load(model.path, pick_dtype(config.precision, device), device)
    reader, limit = TextReader.of(model), config.batch_size * 128
    if model.subject is ENCODER:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        counter = bar("encoding pairs", len(texts), "texts")
        vectors = encoded(runner, reader(texts), limit, counter.advance)
        index = {text: position for position, text in enumerate(texts)}
        first, second = (vectors[[index[pair[side]] for pair in pairs]] for side in (0, 1))
        return [max(0.0, value) for value in cosines(first, second)]
    counter = bar("scoring pairs", 2 * len(pairs), "pairs")
    orders = (list(pairs), [(second, first) for first, second in pairs])
    both = [encoded(runner, reader(some), limit, counter.advance).softmax(dim=-1)[:, 1] for some in orders]
    return ((both[0] + both[1]) / 2).tolist()


def _report(rows: Sequence[Row], labels: Sequence[float]) -> None:
    metric("mean_label", float(np.mean(labels)))
    note(
        f"{len(rows)} pairs have labels from {min(labels):.3f} to {max(labels):.3f}, {float(np.mean(labels)):.3f} on average"
    )
