"""A vocabulary cut to what a corpus needs: tokens, parameters, pieces of held-out texts, log-probabilities, bits a byte, decoding.

python benchmarks/quality/vocabulary.py MODEL_FOLDER DATA_FOLDER [NUM_ROUNDS]

DATA_FOLDER holds wikitext2/valid.txt and test.txt, gsm8k/train.jsonl and test.jsonl (question, answer), self_instruct/seed_tasks.jsonl and
user_oriented_instructions.jsonl (instruction, instances). The first of each chooses the tokens, the second is held out.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from attar.compressors.data.prompts import text_windows
from attar.compressors.measure.cost import measure_in_turns, num_parameters
from attar.compressors.measure.likelihood import piece_losses
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.stages.artifacts.dataset.rows import Row, Split, write_rows
from attar.stages.artifacts.model.folder import load_model, load_tokenizer, model_facts
from attar.stages.artifacts.model.shared_vocabulary import shared_rows
from attar.stages.evaluate.headline import bits_per_byte
from attar.stages.prune.vocabulary.config import TrimVocabularyConfig, TrimVocabularyInputs
from attar.stages.prune.vocabulary.corpus import row_texts
from attar.stages.prune.vocabulary.stage import trim_vocabulary
from attar.stages.runtime.progress import hearing, listen

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

# (corpora, tokens; None: those that the corpora take)
ARMS: tuple[tuple[tuple[str, ...], int | None], ...] = (
    (("wikitext2",), None),
    (("gsm8k",), None),
    (("wikitext2", "gsm8k", "self_instruct"), None),
    (("wikitext2", "gsm8k", "self_instruct"), 16384),
)
NUM_TEXT_CHARACTERS, NUM_SAMPLED, NUM_PROBES, NUM_PROBE_TOKENS = 6000, 24, 6, 64
COLUMNS = (
    "corpus",
    "tokens",
    "parameters M",
    "parameters removed",
    "MB",
    "held-out rows with the same pieces",
    "held-out tokens that stayed",
    "tokens / original's",
    "largest difference, nats",
    "bits/byte",
    "bits/byte of the original",
    "decode tokens/s / original's",
)


@dataclass(frozen=True)
class Texts:
    """Rows that choose and rows that are held out."""

    data: tuple[DatasetArtifact, ...]
    heldout: list[str]

    @property
    def sample(self) -> str:
        """Held-out texts from all over, joined: of each corpus as much."""
        step = max(1, len(self.heldout) // NUM_SAMPLED)
        return "\n\n".join(text[: NUM_TEXT_CHARACTERS // NUM_SAMPLED] for text in self.heldout[::step])


def main() -> None:
    folder, source = Path(sys.argv[1]), Path(sys.argv[2])
    num_rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    configure_process()
    tokenizer = load_tokenizer(folder)
    original = load_model(folder, "auto")
    model = ModelArtifact(folder, model_facts(original))
    size = num_parameters(original) / 1e6
    print(f"Trimmed, of {original.config.vocab_size:,} tokens and {size:.1f} M parameters in {str(original.dtype)[6:]}")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for names, num_tokens in ARMS:
        with tempfile.TemporaryDirectory() as scratch:
            texts = read(source, names, Path(scratch), tokenizer)
            figures: dict[str, float] = {}
            (Path(scratch) / "content").mkdir()
            listener = hearing(metric=lambda entry, figures=figures: figures.update({entry.name: entry.value}))
            with listen(listener):
                inputs = TrimVocabularyInputs(model=model, data=texts.data)
                made = trim_vocabulary.run(TrimVocabularyConfig(num_tokens=num_tokens), inputs, Path(scratch))
            cells = measured(original, tokenizer, folder, made, texts, num_rounds)
            size = (made.path / "model.safetensors").stat().st_size
            removed = int(made.facts["num_removed_parameters"])
            row = [
                " + ".join(names) + (f", {num_tokens:,} tokens" if num_tokens else ""),
                f"{made.facts['vocab_size']:,}",
                f"{made.facts['num_parameters'] / 1e6:.1f}",
                f"{removed / num_parameters(original):.1%}",
                f"{size / 1e6:.0f}",
                f"{figures['heldout_same_fraction']:.1%}",
                f"{figures['heldout_coverage']:.2%}",
                f"{figures['heldout_token_ratio']:.3f}",
                *cells,
            ]
            print(f"| {' | '.join(row)} |", flush=True)


def measured(original, tokenizer, folder: Path, made: ModelArtifact, texts: Texts, num_rounds: int) -> list[str]:
    """Return the cells that need both models: log-probabilities, bits a byte, speed."""
    trimmed, own = load_model(made.path, "auto"), load_tokenizer(made.path)
    rows = shared_rows(made.path, folder, "original")
    assert rows is not None, "nothing was cut"
    bits = [bits_of(TorchRunner(each), words, texts.sample) for each, words in ((trimmed, own), (original, tokenizer))]
    speeds = measure_in_turns(
        [TorchRunner(trimmed), TorchRunner(original)], vocab_size=len(rows), num_prompt_tokens=64, num_rounds=num_rounds
    )
    ratio = speeds[1].decode.median / speeds[0].decode.median
    ends = (speeds[1].decode.low / speeds[0].decode.high, speeds[1].decode.high / speeds[0].decode.low)
    return [
        f"{largest_difference(original, trimmed, own, rows, texts.heldout):.1e}",
        *bits,
        f"{ratio:.2f} [{ends[0]:.2f}, {ends[1]:.2f}] ({1 / speeds[0].decode.median:.1f} a second)",
    ]


@torch.inference_mode()
def largest_difference(original, trimmed, tokenizer, rows: list[int], texts: list[str]) -> float:
    """Return the largest difference in nats, over held-out texts in the trimmed tokens, of the log-probabilities of kept tokens."""
    index, worst = torch.tensor(rows), 0.0
    for text in texts[:NUM_PROBES]:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids[:NUM_PROBE_TOKENS]])
        whole = original(input_ids=index[ids]).logits[..., index].float().log_softmax(dim=-1)
        worst = max(worst, float((whole - trimmed(input_ids=ids).logits.float().log_softmax(dim=-1)).abs().max()))
    return worst


def bits_of(runner: TorchRunner, tokenizer, text: str) -> str:
    """Return bits a byte of a model in its own tokens, with the interval; all models read the same bytes."""
    windows = [(context, part) for context, part in text_windows(tokenizer, text, 512) if part]
    pieces = piece_losses(runner, windows, batch_size=2)
    estimate = bits_per_byte(pieces, sum(len(tokenizer.decode(part).encode()) for _, part in windows))
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def read(source: Path, names: tuple[str, ...], scratch: Path, tokenizer) -> Texts:
    data, heldout = [], []
    for name in names:
        rows = list(READERS[name](source / name))
        (scratch / name).mkdir()
        write_rows(scratch / name / "rows.jsonl", rows)
        data.append(DatasetArtifact.at(scratch / name, name=name))
        heldout += [text for row in rows if row.split == "heldout" for text in row_texts(tokenizer, row) if text]
    return Texts(tuple(data), heldout)


def wikitext(folder: Path) -> Iterator[Row]:
    for split, file in parts("valid.txt", "test.txt"):
        lines = (folder / file).read_text().splitlines()
        yield from (Row(f"{file}-{i}", text=line, split=split) for i, line in enumerate(lines) if line.strip())


def questions(folder: Path) -> Iterator[Row]:
    for split, file in parts("train.jsonl", "test.jsonl"):
        for index, line in enumerate((folder / file).read_text().splitlines()):
            record = json.loads(line)
            yield Row(f"{file}-{index}", question=record["question"], answer=record["answer"], split=split)


def instructions(folder: Path) -> Iterator[Row]:
    for split, file in parts("seed_tasks.jsonl", "user_oriented_instructions.jsonl"):
        for index, line in enumerate((folder / file).read_text().splitlines()):
            record = json.loads(line)
            for instance in record["instances"]:
                question = f"{record['instruction']}\n\n{instance['input']}".strip()
                yield Row(f"{file}-{index}", question=question, answer=instance["output"], split=split)


def parts(chosen: str, heldout: str) -> tuple[tuple[Split, str], ...]:
    return ("train", chosen), ("heldout", heldout)


READERS = {"wikitext2": wikitext, "gsm8k": questions, "self_instruct": instructions}

if __name__ == "__main__":
    recorded(main)
