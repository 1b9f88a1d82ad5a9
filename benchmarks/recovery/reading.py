"""What a long healing reads, as files of rows: articles, prose, questions to answer, solutions, choices as text. No row is of a test part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

# A row of so many articles is as long as a window of WikiText.
ARTICLES_A_ROW = 3
SENTENCES_A_ROW = 16
# Of the Brown corpus, the share of rows printed as prose is, and not with spaces around its punctuation.
PRINTED = 0.35
QUESTIONS_ABOUT = (
    "Tell me about {}.",
    "What is {}?",
    "Explain {} in a few sentences.",
    "Write a short paragraph about {}.",
    "Why is {} important?",
)


def write_reading(out: Path, data: Path, articles: Path, prose: Path) -> dict[str, Path]:
    """Write every file of rows and return where, by name: the same from the same sources."""
    rng = Random(0)
    articles_read = [article for article in json.loads(articles.read_text()).values() if len(article["extract"]) > 120]
    rng.shuffle(articles_read)
    problems, science = read_rows(data / "gsm8k/train.jsonl"), read_rows(data / "arc_easy/train.jsonl")
    common = read_rows(data / "csqa/train.jsonl")
    for some in (problems, common):
        rng.shuffle(some)
    solved, problems_read = problems[:1500], problems[1500:2320]
    chosen_from, wondered = common[:3600], common[3600:3880]
    questions = [example["question"] for example in (*problems_read, *rng.sample(science, 180), *wondered)]
    questions += [instruction(row) for row in read_rows(data / "self_instruct/seed_tasks.jsonl")]
    questions += [rng.choice(QUESTIONS_ABOUT).format(article["title"]) for article in rng.sample(articles_read, 450)]
    rng.shuffle(questions)
    rows = {
        "articles": texts(article_rows(articles_read)),
        "prose": texts(brown_rows(prose, rng)),
        "wiki": texts(articles_of((data / "wikitext2/valid.txt").read_text())),
        "asked": [{"question": question, "answer": "-"} for question in questions],
        "solutions": [{"question": row["question"], "answer": row["answer"]} for row in solved],
        "choices": texts(choice_rows([*science, *chosen_from], rng)),
    }
    out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
    return paths


def instruction(task: dict[str, Any]) -> str:
    """Return what a task of Self-Instruct asks, with its first input below."""
    return "\n\n".join(part for part in (task["instruction"], task["instances"][0]["input"]) if part)


def as_wikitext(title: str, extract: str) -> str:
    """Return an article with the heading and the spacing of WikiText-2: punctuation apart, @ around what joined a word or a number."""
    joined = re.sub(r"(\d)([,.])(\d)", r"\1 @\2@ \3", extract)
    joined = re.sub(r"(\w)-(\w)", r"\1 @-@ \2", joined)
    apart = re.sub(r"(?<!@)([.,;:!?()\[\]\"])(?!@)", r" \1 ", joined)
    apart = re.sub(r"(\w)'(s|re|ve|ll|d|t)\b", r"\1 '\2", apart).replace("s' ", "s ' ")
    return f" = {title} = \n \n {re.sub(' +', ' ', apart).strip()} \n"


def article_rows(articles: list[dict[str, str]]) -> list[str]:
    ready = [as_wikitext(article["title"], article["extract"]) for article in articles]
    return [" \n".join(ready[start : start + ARTICLES_A_ROW]) for start in range(0, len(ready), ARTICLES_A_ROW)]


def articles_of(text: str) -> list[str]:
    """Return WikiText's articles, each with its heading."""
    return [part for part in re.split(r"(?m)^(?= = [^=]+ = *$)", text) if part.strip()]


def brown_rows(folder: Path, rng: Random) -> list[str]:
    """Return runs of sentences of the tagged Brown corpus without their tags, in an order of their own."""
    rows = []
    for path in sorted(folder.glob("c[a-r][0-9][0-9]")):
        tagged = [line.split() for line in path.read_text(encoding="latin1").splitlines() if line.strip()]
        sentences = [" ".join(word.rsplit("/", 1)[0] for word in words) for words in tagged]
        for start in range(0, len(sentences), SENTENCES_A_ROW):
            row = " ".join(sentences[start : start + SENTENCES_A_ROW]).replace("``", '"').replace("''", '"')
            rows.append(as_printed(row) if rng.random() < PRINTED else row)
    rng.shuffle(rows)
    return rows


def as_printed(text: str) -> str:
    text = re.sub(r" ([.,;:!?)])", r"\1", text).replace("( ", "(")
    return re.sub(r'" (.*?) "', r'"\1"', text)


def choice_rows(rows: list[dict[str, Any]], rng: Random) -> list[str]:
    """Return each question twice, with its right choice and with a wrong one: what the original finds of both is learned."""
    texts = []
    for row in rows:
        wrong = [choice for index, choice in enumerate(row["choices"]) if index != row["answer"]]
        texts += [
            f"Question: {row['question']}\nAnswer: {choice}"
            for choice in (row["choices"][row["answer"]], rng.choice(wrong))
        ]
    rng.shuffle(texts)
    return texts


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(some: Iterable[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in some]
