"""Does a training text hold an evaluation question? Runs of words shared with the tasks, as GPT-3 and lm-eval count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attar.compressors.data.ngrams import ngrams, words


@dataclass(frozen=True)
class TaskQuestion:
    """A question that a model will be judged by, with its reference answer."""

    task: str
    row_id: str
    question: str
    answer: str


@dataclass(frozen=True)
class Overlap:
    """What a training text shares with a task: the task, its question's id, and the words."""

    task: str
    row_id: str
    shared: str


def find_overlaps(
    pairs: Sequence[tuple[str, str]],
    questions: Sequence[TaskQuestion],
    *,
    ngram_words: int = 13,
    min_ngram_words: int = 8,
    max_ngram_rows: int = 10,
) -> dict[int, Overlap]:
    """Return the (question, rest of the text) pairs that overlap a task, by index.

    A pair overlaps when it asks the same question, or shares a run of `ngram_words` words with a task's question, or with question and
    answer. Where those are shorter, all of their words are the run, down to `min_ngram_words`. A run in more than `max_ngram_rows`
    pairs is a phrase of the prompt's form and counts for nothing. https://arxiv.org/abs/2005.14165, appendix C
    """
    runs, whole = _index(questions, ngram_words, min_ngram_words)
    sizes = sorted({num_words for num_words, _ in runs}, reverse=True)
    question_words = [words(question) for question, _ in pairs]
    shared = []
    for own, (_, rest) in zip(question_words, pairs, strict=True):
        sequence = [*own, *words(rest)]
        hits = ((size, run) for size in sizes for run in ngrams(sequence, size) if (size, run) in runs)
        shared.append(list(dict.fromkeys(hits)))
    num_rows = Counter(run for hits in shared for run in hits)
    overlaps = {}
    for index, (own, hits) in enumerate(zip(question_words, shared, strict=True)):
        same = whole.get(" ".join(own)) if own else None
        rare = next((hit for hit in hits if num_rows[hit] <= max_ngram_rows), None)
        if same is not None:
            overlaps[index] = Overlap(same.task, same.row_id, " ".join(own))
        elif rare is not None:
            overlaps[index] = Overlap(runs[rare].task, runs[rare].row_id, rare[1])
    return overlaps


def _index(
    questions: Sequence[TaskQuestion], ngram_words: int, min_ngram_words: int
) -> tuple[dict[tuple[int, str], TaskQuestion], dict[str, TaskQuestion]]:
    runs: dict[tuple[int, str], TaskQuestion] = {}
    whole: dict[str, TaskQuestion] = {}
    for row in questions:
        question = words(row.question)
        whole.setdefault(" ".join(question), row)
        for sequence in (question, [*question, *words(row.answer)]):
            num_words = min(ngram_words, len(sequence))
            if num_words >= min_ngram_words:
                for run in ngrams(sequence, num_words):
                    runs.setdefault((num_words, run), row)
    return runs, whole
