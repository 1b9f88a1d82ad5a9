"""Our runners under lm-eval: the field's evaluator decides prompts, scoring and metrics, whatever runs the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from attar.compressors.data.prompts import encoded, end_token_id, rendered, stop_token_ids
from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import CausalRunner
from attar.stages.evaluate.config import COUNTED
from attar.stages.runtime.progress import bar

# Where a task's answers stand question by question.
RIGHT = "right"


class RunnerLM(TemplateLM):
    """A `CausalRunner` and its tokenizer as an lm-eval model."""

    def __init__(self, runner: CausalRunner, tokenizer: Any, generation_config: Any, batch_size: int) -> None:
        super().__init__()
        self.runner, self.tokenizer, self.batch_size = runner, tokenizer, batch_size
        self.stop_ids = stop_token_ids(tokenizer, generation_config)

    @property
    def eot_token_id(self) -> int:
        return end_token_id(self.tokenizer)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the tokens of a text with what the tokenizer puts first, once. lm-eval says False for what stands behind a context."""
        if add_special_tokens is False:
            return self.tokenizer(string, add_special_tokens=False).input_ids
        return encoded(self.tokenizer, string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return rendered(self.tokenizer, chat_history, (), is_open=add_generation_prompt)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        counter = bar("scoring choices", len(requests), "texts")
        pairs = [(context, continuation) for _, context, continuation in requests]
        scored = continuation_likelihoods(self.runner, pairs, batch_size=self.batch_size, on_scored=counter.advance)
        return [(score.logprob_nats, score.is_greedy) for score in scored]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [self.tok_encode(request.args[0], add_special_tokens=False) for request in requests]
        pairs = [([self.prefix_token_id], text) for text in texts]
        return [
            score.logprob_nats for score in continuation_likelihoods(self.runner, pairs, batch_size=self.batch_size)
        ]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        counter = bar("generating answers", len(requests), "texts")
        arguments: list[tuple[str, dict[str, Any]]] = [tuple(request.args) for request in requests]  # type: ignore[misc]
        prompts = [self.tok_encode(text) for text, _ in arguments]
        limits = [int(options.get("max_gen_toks", 128)) for _, options in arguments]
        answers = [""] * len(prompts)
        for limit in sorted(set(limits)):
            chosen = [index for index in range(len(prompts)) if limits[index] == limit]
            generations = decode(
                self.runner,
                [prompts[index] for index in chosen],
                max_new_tokens=limit,
                stop_ids=self.stop_ids,
                batch_size=self.batch_size,
                on_finished=counter.advance,
            )
            for index, generation in zip(chosen, generations, strict=True):
                text = self.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
                answers[index] = _cut(text, arguments[index][1].get("until", []))
        return answers


def run_tasks(model: RunnerLM, tasks: Sequence[Any], task_folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Run lm-eval tasks (configs as dicts, or names of YAML files in `task_folder`) and return {task: {metric: value}}.

    Under `right` each has, question by question, the metric that counts.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(task_folder) if task_folder else None, include_defaults=False)
    output = simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, log_samples=True)
    assert output is not None, "only ranks above zero get None"
    samples = output["samples"]  # type: ignore[typeddict-item]
    return {name: {**scores, RIGHT: _by_question(samples.get(name, []))} for name, scores in output["results"].items()}  # type: ignore[typeddict-item]


def _by_question(samples: Sequence[dict[str, Any]]) -> list[float]:
    """Return the first metric of COUNTED that the samples have, in the order of the questions; nothing where they have none."""
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    metric_name = next((name for name in COUNTED if ordered and name in ordered[0]), "")
    return [float(sample[metric_name]) for sample in ordered] if metric_name else []


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.index(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
