"""The runs of a scan: each asked metric computed from as few passes over the samples as it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from attar.compressors.catalogue import build
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.paging import brought
from attar.compressors.prune.depth.block_cost import Costs, counted_costs, measured_latency, unlike_blocks
from attar.compressors.prune.depth.calibration import Batch, Sample, batches
from attar.compressors.prune.depth.gradient import gradient_scores
from attar.compressors.prune.depth.metrics import (
    CONTROL_METRICS,
    COSINE_METRICS,
    GRADIENT_METRICS,
    PATCH_METRICS,
    REMOVAL_METRICS,
    WEIGHT_METRICS,
)
from attar.compressors.prune.depth.part_influence import PartInfluence, adds_parts
from attar.compressors.prune.depth.removal import Removal, greedy_order, removal_scores
from attar.compressors.prune.depth.scan import Scores, WindowScan, window_table
from attar.compressors.prune.depth.select import protected_blocks
from attar.compressors.prune.solve.candidates import Units
from attar.compressors.prune.solve.items import Problem
from attar.compressors.prune.solve.vocabulary import FewerTokens
from attar.stages.runtime.progress import bar, note
from attar.stages.scan.candidates import measure_candidates
from attar.stages.scan.config import ScanConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_LATENCY_TOKENS, NUM_LATENCY_ROUNDS = 128, 15


class ScanRun:
    """One model under one scan config."""

    def __init__(self, config: ScanConfig, model: PreTrainedModel, samples: Sequence[Sample]) -> None:
        self.config, self.model, self.samples = config, model, samples
        self.num_blocks = len(decoder_blocks(model))
        self.num_tokens = sum(len(sample.ids) for sample in samples)
        if config.calibration.tokens == "answer" and all(len(sample.ids) <= sample.answer_start for sample in samples):
            raise ValueError(
                f"calibration.tokens is 'answer', but no answer begins within max_tokens = {config.calibration.max_tokens}"
            )
        self.parts, self._has_parts = PartInfluence(), adds_parts(model)
        self._loss_batches = self._spaced(config.calibration.num_loss_samples)

    def window_scores(self) -> dict[str, Scores]:
        """Return each metric's table of windows, in the order of the config; one with a greedy order alone has none."""
        tables = {**self._cosine(), **self._control(), **self._of_blocks(), **self._patch(), **self._increase()}
        return {name: tables[name] for name in self.config.metrics if name in tables}

    def greedy_orders(self) -> dict[str, list[Removal]]:
        """Return the greedy order of each metric that has one."""
        metrics = self._metrics_of(REMOVAL_METRICS)
        protected = protected_blocks(self.num_blocks, self.config.greedy.protect_first, self.config.greedy.protect_last)
        num_free = self.num_blocks - len(protected)
        num_steps = min(self.config.greedy.num_steps, num_free if protected else num_free - 1)
        orders = {}
        for name, metric in metrics.items():
            if num_steps:
                total = len(self._loss_batches) * sum(range(num_free - num_steps + 1, num_free + 1))
                counter = bar(f"greedy order by {name}", total, "runs")
                orders[name] = greedy_order(
                    self.model,
                    self._loss_batches,
                    metric,
                    num_steps=num_steps,
                    protected=protected,
                    on_run=counter.advance,
                )
                note(f"greedy order by {name}: {', '.join(str(removal.block) for removal in orders[name])}")
        return orders

    def costs(self) -> dict[str, Costs]:
        """Return what each block costs: parameters, FLOPs, and where asked seconds a decoded token."""
        costs = counted_costs(self.model, NUM_LATENCY_TOKENS)
        if self.config.measure_latency:
            counter = bar("timing blocks", NUM_LATENCY_ROUNDS + 1, "rounds")
            costs |= measured_latency(
                self.model,
                num_context_tokens=NUM_LATENCY_TOKENS,
                num_rounds=NUM_LATENCY_ROUNDS,
                on_round=counter.advance,
            )
            if apart := unlike_blocks(self.model, costs["latency"]):
                times = " and ".join(f"block {index} {1e3 * costs['latency'].blocks[index]:.3g} ms" for index in apart)
                note(
                    f"warning: blocks of one shape are more than a third apart, {times}: the machine was busy, choose nothing by latency"
                )
        return costs

    def vocabulary_texts(self) -> list[list[int]]:
        """Return the samples on which vocabularies are measured, evenly spaced."""
        count = self.config.candidates.num_vocabulary_samples
        stride = max(1, len(self.samples) // count)
        return [sample.ids for sample in self.samples[stride - 1 :: stride][:count]]

    def candidates(self, vocabularies: Sequence[FewerTokens] = ()) -> tuple[Problem, Units]:
        """Return the candidates of the asked axes, and the scores of units by which they stay."""
        greedy, candidates = self.config.greedy, self.config.candidates
        return measure_candidates(
            candidates,
            self.model,
            self._spaced(candidates.num_samples, candidates.max_tokens),
            self._spaced(candidates.num_scoring_samples),
            protected_blocks(self.num_blocks, greedy.protect_first, greedy.protect_last),
            vocabularies,
            self.vocabulary_texts(),
            is_timed=self.config.measure_latency,
        )

    def _spaced(self, count: int, max_tokens: int | None = None) -> list[Batch]:
        """Return so many samples, evenly spaced, since they are sorted by length; each cut at `max_tokens`."""
        stride = max(1, len(self.samples) // count)
        spaced = self.samples[stride - 1 :: stride][:count]
        return list(self._batches([replace(sample, ids=sample.ids[:max_tokens]) for sample in spaced]))

    def _cosine(self) -> dict[str, Scores]:
        totals = WindowScan(self._metrics_of(COSINE_METRICS))
        if totals.metrics:
            counter = bar("scanning", self.num_tokens, "tokens")
            for batch in self._batches(self.samples):
                with torch.inference_mode(), self._watched(batch):
                    totals.update(self.model, batch.input_ids, batch.attention_mask, batch.counted)
                counter.advance(int(batch.attention_mask.sum()))
        return {name: totals.scores(name) for name in totals.metrics}

    def _watched(self, batch: Batch) -> AbstractContextManager[None]:
        """Return what watches the parts of every block while a batch runs; nothing for families whose parts are not known."""
        return self.parts.watching(self.model, batch.counted) if self._has_parts else nullcontext()

    def _control(self) -> dict[str, Scores]:
        return {
            name: window_table(metric(self.num_blocks, torch.Generator().manual_seed(self.config.seed)))
            for name, metric in self._metrics_of(CONTROL_METRICS).items()
        }

    def _of_blocks(self) -> dict[str, Scores]:
        """Score single blocks; a window's score is the sum of its blocks'."""
        of_blocks = {
            name: [metric(block.parameters()) for block in brought(self.model)]
            for name, metric in self._metrics_of(WEIGHT_METRICS).items()
        }
        gradient_metrics = self._metrics_of(GRADIENT_METRICS)
        if gradient_metrics:
            counter = bar("gradients", len(self._loss_batches), "batches")
            of_blocks |= gradient_scores(self.model, self._loss_batches, gradient_metrics, on_batch=counter.advance)
        windows = [(first, size) for first in range(self.num_blocks) for size in range(1, self.num_blocks - first + 1)]
        return {
            name: {(first, size): sum(scores[first : first + size]) for first, size in windows}
            for name, scores in of_blocks.items()
        }

    def _patch(self) -> dict[str, Scores]:
        tables = {}
        for name in self._metrics_of(PATCH_METRICS):
            metric = build(PATCH_METRICS, name, {"is_weighted": self.config.patch_weight == "norm"})
            fit = metric.start(self.num_blocks, self.config.sizes)
            counter = bar("fitting patches", self.num_tokens, "tokens")
            for batch in self._batches(self.samples):
                fit.update(self.model, batch.input_ids, batch.attention_mask)
                counter.advance(int(batch.attention_mask.sum()))
            tables[name] = fit.scores()
        return tables

    def _increase(self) -> dict[str, Scores]:
        sizes = self.config.sizes
        windows = [(first, size) for size in sizes for first in range(self.num_blocks - size + 1)]
        tables = {}
        for name, metric in self._metrics_of(REMOVAL_METRICS).items() if windows else ():
            counter = bar(f"windows by {name}", len(windows) * len(self._loss_batches), "runs")
            removed = [frozenset(range(first, first + size)) for first, size in windows]
            scores = removal_scores(self.model, self._loss_batches, metric, removed, on_run=counter.advance)
            tables[name] = dict(zip(windows, scores, strict=True))
        return tables

    def _metrics_of(self, table: Mapping[str, type]) -> dict:
        return {name: build(table, name) for name in self.config.metrics if name in table}

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        config = self.config
        return batches(
            samples,
            config.calibration.batch_size,
            self.model.device,
            tokens=config.calibration.tokens,
            skip_first=config.calibration.skip_first,
        )
