"""What is kept of generated, checkable skills: families of questions by exact match, those never trained on told apart.

python benchmarks/recovery/skills.py ORIGINAL_FOLDER [--students NAME=FOLDER ...] [--trained FAMILY ...] [--families FAMILY ...]
    [--num 500] [--max-new-tokens 48] [--precision auto]

A family is a template of ours (template:addition) or a task of reasoning-gym (gym:chain_sum). First the original answers: a family on which it is
not surely above guessing, or below 40% right, is refused as a measure and named. Then each student answers the same questions of
the others. Retention is its share of right answers over the original's, question by question in pairs. Of the texts are told: which end by
themselves, and which repeat a run of eight words three times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.data.templates import TEMPLATES
from attar.compressors.measure.closeness import Estimate
from attar.compressors.measure.paired import paired_retention, share
from attar.compressors.models.decode import decode
from attar.compressors.models.ragged.lookup import Drafts
from attar.compressors.models.row_products import lay_out_weights
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.right_answers import right_answers
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.ingest.records.record_sources import generate_tasks
from attar.stages.runtime.device import pick_device, pick_dtype

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

# Held-out questions are drawn by it; train on other seeds.
SEED = 20_261_130
MIN_ACCURACY = 0.40
LOOP_WORDS, LOOP_TIMES = 8, 3
GYM = "gym:"
GYM_TASKS = ("chain_sum", "basic_arithmetic", "products", "needle_haystack", "spell_backward", "number_sorting", "gcd")
TEMPLATE = "template:"
BATCH_SIZE = 32


@dataclass(frozen=True)
class Answers:
    """What a model made of a family: right answers question by question, and shares of its texts."""

    right: list[float]
    finished: float
    looping: float


def main() -> None:
    options = arguments()
    configure_process()
    rows = {family: questions(family, options.num) for family in options.families}
    original = answers_of(options.original, rows, options)
    measures = refuse_at_chance(rows, original)
    if options.students:
        tell_retention(options, {family: rows[family] for family in measures}, original)


def questions(family: str, num: int) -> list[Row]:
    """Return the held-out questions of a family."""
    if family.startswith(GYM):
        records: Any = generate_tasks(
            family.removeprefix(GYM), family, num_rows=num, seed=SEED, question_field="question", answer_field="answer"
        )
        drawn = [(record["question"], record["answer"], record["verifier"]) for _, record in records]
    else:
        tasks = islice(TEMPLATES[family.removeprefix(TEMPLATE)].tasks(Random(SEED)), num)
        drawn = [(task.question, task.answer, task.verifier) for task in tasks]
    return [Row(f"{family}-{index}", *task[:2], verifier=task[2]) for index, task in enumerate(drawn)]


def answers_of(folder: Path, rows: dict[str, list[Row]], options: Any) -> dict[str, Answers]:
    """Let a model answer every family greedily."""
    device = pick_device()
    model = load_model(folder, pick_dtype(options.precision, device), device).eval()
    lay_out_weights(model)
    runner, tokenizer = TorchRunner(model), load_tokenizer(folder)
    stop_ids = stop_token_ids(tokenizer, model.generation_config)
    made = {}
    for family, some in rows.items():
        prompts = [tuple(row_prompt(tokenizer, row)) for row in some]
        texts = decode(
            runner,
            prompts,
            max_new_tokens=options.max_new_tokens,
            stop_ids=stop_ids,
            batch_size=BATCH_SIZE,
            drafts=Drafts(runner),
        )
        written = [tokenizer.decode(text.token_ids, skip_special_tokens=True) for text in texts]
        right = right_answers(some, tokenizer, dict(zip(prompts, written, strict=True)))
        finished = sum(text.is_finished for text in texts) / len(texts)
        made[family] = Answers(right, finished, sum(map(is_loop, written)) / len(written))
        if options.show:
            print(f"{family}: {some[0].question!r} -> {written[0]!r}", file=sys.stderr)
        print(f"{folder.name}, {family}: {share(right).value:.1%}", file=sys.stderr, flush=True)
    return made


def is_loop(text: str) -> bool:
    """Say whether a run of words comes again and again."""
    words = text.split()
    runs = [tuple(words[start : start + LOOP_WORDS]) for start in range(len(words) - LOOP_WORDS + 1)]
    return any(runs.count(run) >= LOOP_TIMES for run in set(runs))


def refuse_at_chance(rows: dict[str, list[Row]], original: dict[str, Answers]) -> list[str]:
    """Print what the original answers, and return the families that are a measure."""
    num = len(next(iter(rows.values())))
    print(f"The original on {num} held-out questions of each family")
    print("| family | right | guessing | ends | loops | a measure |\n|---|---|---|---|---|---|")
    measures = []
    for family, answers in original.items():
        accuracy, guess = share(answers.right), guessed(family)
        if accuracy.low <= guess:
            verdict = "refused: at chance"
        elif accuracy.value < MIN_ACCURACY:
            verdict = f"refused: below {MIN_ACCURACY:.0%}"
        else:
            verdict = "yes"
            measures.append(family)
        print(
            f"| {family} | {shown(accuracy)} | {guess:.0%} | {answers.finished:.0%} | {answers.looping:.0%} | {verdict} |"
        )
    return measures


def guessed(family: str) -> float:
    return TEMPLATES[family.removeprefix(TEMPLATE)].guess if family.startswith(TEMPLATE) else 0.0


def tell_retention(options: Any, rows: dict[str, list[Row]], original: dict[str, Answers]) -> None:
    """Print each student's retention by family, and over those that it was trained on and those that it was not."""
    print("Retention of the original's right answers")
    print("| student | family | trained on | right | retention | ends | loops |\n|---|---|---|---|---|---|---|")
    for name, folder in options.students:
        answers = answers_of(folder, rows, options)
        pairs = {family: (answers[family].right, original[family].right) for family in rows}
        for family, pair in pairs.items():
            own, is_trained = answers[family], family in options.trained
            print(
                f"| {name} | {family} | {'yes' if is_trained else 'never'} | {shown(share(own.right))} | {shown(paired_retention([pair]), 3)} "
                f"| {own.finished:.0%} | {own.looping:.0%} |"
            )
        for title, is_trained in (("all trained on", True), ("all never trained on", False)):
            some = [pair for family, pair in pairs.items() if (family in options.trained) == is_trained]
            if some:
                accuracy = sum(sum(right) for right, _ in some) / sum(len(right) for right, _ in some)
                print(
                    f"| {name} | {title} | {'yes' if is_trained else 'never'} | {accuracy:.1%} | {shown(paired_retention(some), 3)} | | |"
                )


def shown(estimate: Estimate, digits: int = 0) -> str:
    """Return a share in percent, or a ratio with so many digits, with its interval."""
    form = (lambda value: f"{value:.{digits}f}") if digits else (lambda value: f"{value:.1%}")
    return f"{form(estimate.value)} [{form(estimate.low)}, {form(estimate.high)}]"


def known_family(text: str) -> str:
    """Return a family's name. Raises ArgumentTypeError for a template that is none; reasoning-gym's own names it knows."""
    is_template = text.startswith(TEMPLATE) and text.removeprefix(TEMPLATE) in TEMPLATES
    if not is_template and not text.startswith(GYM):
        known = ", ".join(f"{TEMPLATE}{name}" for name in TEMPLATES)
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: {known}, or gym:TASK of reasoning-gym")
    return text


def named_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not folder:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: NAME=FOLDER")
    return name, Path(folder)


def arguments(given: Sequence[str] | None = None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("--students", type=named_folder, nargs="*", default=[])
    parser.add_argument("--trained", type=known_family, nargs="*", default=[])
    families = [*(f"{TEMPLATE}{name}" for name in TEMPLATES), *(f"{GYM}{name}" for name in GYM_TASKS)]
    parser.add_argument("--families", type=known_family, nargs="+", default=families)
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--show", action="store_true", help="also prints an answer of each family")
    return parser.parse_args(given)


if __name__ == "__main__":
    recorded(main)
