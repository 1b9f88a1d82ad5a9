"""Try merges and judge each by what its model does on development rows, which are never those of an evaluation."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.measure.likelihood import Pair, continuation_likelihoods
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.files import write_synced
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import TRIALS, DatasetArtifact
from attar.stages.artifacts.dataset.rows import Row, read_rows, split_rows
from attar.stages.artifacts.dataset.samples import exact_tokens
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.finetune.heldout_quality import share_right
from attar.stages.finetune.training_rows import is_checkable
from attar.stages.merge.config import SearchConfig
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import bar, metric, note


def dev_rows(config: SearchConfig, data: Sequence[DatasetArtifact]) -> list[Row]:
    """Return the rows that trials are judged by. Questions set apart for choices, or of the training part where there are none, of data

    sets that hold out others for evaluation.

    Raises ValueError for a data set without a held-out part (an evaluation reads all of its rows) or without fitting rows.
    """
    chosen: list[Row] = []
    for dataset in data:
        name, rows = dataset.facts.name or "dev", read_rows(dataset.path / "rows.jsonl")
        if not split_rows(rows, "heldout"):
            raise ValueError(f"dev: {name} holds no rows out, so an evaluation reads all of them; set heldout_fraction")
        evaluated = {row.question for row in split_rows(rows, "heldout")}
        part = split_rows(rows, "choose") or split_rows(rows, "train")
        fitting = [row for row in part if row.question and row.question not in evaluated]
        if config.measure == "accuracy":
            fitting = [row for row in fitting if is_checkable(row)]
        if not fitting:
            what = "checkable question" if config.measure == "accuracy" else "question"
            raise ValueError(f"dev: {name} has no {what} in its training part")
        chosen += fitting[: config.max_rows]
    return chosen


class Search:
    """The trials of one search; those on record from an interrupted run are not repeated."""

    def __init__(self, config: SearchConfig, data: Sequence[DatasetArtifact], workdir: Path) -> None:
        self.config, self.rows, self.workdir = config, dev_rows(config, data), workdir
        self.record = workdir / "trials.json"

    def best(self, trials: Sequence[dict[str, Any]], write: Callable[[dict[str, Any], Path], None]) -> dict[str, Any]:
        """Return the parameters whose model, written to a folder by `write`, scores best; of equal ones the first."""
        scores = self._recorded()
        if scores:
            note(f"continuing at trial {len(scores) + 1} of {len(trials)}")
        counter = bar("searching", len(trials), "trials", done=len(scores))
        for index, score in enumerate(scores):  # told again, so that the table of a resumed run is whole
            self._tell(index, trials[index], score)
        for index in range(len(scores), len(trials)):
            folder = self.workdir / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            write(trials[index], folder)
            score = self._score(folder)
            shutil.rmtree(folder)
            scores.append(score)
            write_synced(self.record, json.dumps(scores))
            self._tell(index, trials[index], score)
            counter.advance()
        chosen = scores.index(min(scores) if self.config.measure == "loss" else max(scores))
        metric("search_best_trial", chosen)
        metric(f"search_best_{self.config.measure}", scores[chosen])
        note(f"best trial: {chosen}, {self._words(trials[chosen])}, {self.config.measure} {scores[chosen]:.4f}")
        self._write_table(trials, scores, chosen)
        return trials[chosen]

    def _score(self, folder: Path) -> float:
        device = pick_device()
        runner = TorchRunner(load_model(folder, pick_dtype(self.config.precision, device), device))
        tokenizer = load_tokenizer(folder)
        if self.config.measure == "accuracy":
            return share_right(runner, self.rows, tokenizer, self.config.max_new_tokens)
        pairs = [_pair(tokenizer, row, self.config.max_tokens) for row in self.rows]
        scored = continuation_likelihoods(runner, pairs, batch_size=self.config.batch_size)
        return -sum(score.logprob_nats for score in scored) / sum(score.num_tokens for score in scored)

    def _recorded(self) -> list[float]:
        return json.loads(self.record.read_text()) if self.record.exists() else []

    def _tell(self, index: int, params: dict[str, Any], score: float) -> None:
        unit = "_nats" if self.config.measure == "loss" else ""
        metric(f"trial_{self.config.measure}{unit}", score, index)
        note(f"trial {index}: {self._words(params)}: {self.config.measure} {score:.4f}")

    def _words(self, params: dict[str, Any]) -> str:
        return ", ".join(f"{name} {params[name]}" for name in self.config.grid)

    def _write_table(self, trials: Sequence[dict[str, Any]], scores: Sequence[float], chosen: int) -> None:
        records = self.workdir / "content" / RECORDS_FOLDER
        records.mkdir(parents=True, exist_ok=True)
        with (records / f"{TRIALS}.csv").open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["trial", *self.config.grid, self.config.measure, "is_best"])
            for index, (params, score) in enumerate(zip(trials, scores, strict=True)):
                values = [json.dumps(params[name]) for name in self.config.grid]
                table.writerow([index, *values, repr(score), int(index == chosen)])


def _pair(tokenizer: Any, row: Row, max_tokens: int) -> Pair:
    prompt, answer = exact_tokens(tokenizer, row)
    return prompt, answer[:max_tokens]
