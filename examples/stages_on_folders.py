"""Single stages on folders, without a recipe, a server or a registry: scan a model, cut the block that matters least, export.

python examples/stages_on_folders.py FOLDER
"""

import sys
from pathlib import Path

import attar


def main(folder: Path) -> None:
    """Write a model, its scan and a smaller model into `folder`."""
    store = attar.Store(folder / "store")  # what is made twice is made once
    questions = folder / "questions.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    questions.write_text("".join(f'{{"question": "{n} plus {n}?", "answer": "{2 * n}"}}\n' for n in range(1, 25)))

    # a folder that transformers has saved does as well: model="path/to/folder"
    model = attar.stages.ingest_model(
        source="random:llama?num_blocks=4&hidden_size=64&seed=0", output=folder / "model", store=store
    )
    scan = attar.stages.scan(model=folder / "model", data=questions, calibration={"max_tokens": 64}, store=store)
    smaller = attar.stages.prune(model=model, scan=scan, num_blocks=1, output=folder / "smaller", store=store)
    print(f"{model.facts.num_blocks} blocks, then {smaller.facts.num_blocks}: {folder / 'smaller'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "small-model"))
