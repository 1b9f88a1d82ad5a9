"""What the tests of guide and folded guidance share."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from attar.compressors.data.prompts import chat_prompt
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.guidance.config import GuideConfig, GuideInputs
from attar.stages.guidance.data.config import GuideDataConfig
from attar.stages.guidance.stage import guide

LETTERS = "abcdefghijkl"


STYLES = 6


NUM_NEW = 16


DRAW = GuideDataConfig(
    scales={"min": 1.0, "max": 3.0, "unseen": 2.0},
    drawing={"num_samples": 6, "max_new_tokens": NUM_NEW},
    num_recorded=259,
    batch_size=64,
    precision="float32",
)


TRAINING = {
    "schedule": {"num_epochs": 8, "learning_rate": 1e-2, "tokens_per_step": 2048},
    "compute": {"tokens_per_micro_batch": 4096, "precision": "float32"},
    "heldout": {"every": 10, "patience": 0},
}


GUIDE = GuideConfig(rank=32, num_tokens=16, num_heads=2, training=TRAINING, num_gate_rows=64)  # type: ignore[arg-type]


def question(style: int, number: int) -> str:
    return f"{'uvwxyz'[style]}{number:03d}"


def chains() -> torch.Tensor:
    """Six Markov chains over the letters: one common part, tilted by the style."""
    generator = torch.Generator().manual_seed(5)
    common, tilt = torch.randn(12, 12, generator=generator), torch.randn(STYLES, 12, 12, generator=generator)
    return (common + 0.8 * tilt).softmax(dim=-1)


def teach(model: PreTrainedModel, tokenizer, num_steps: int, seed: int, learning_rate: float = 3e-3) -> None:
    """Train a model to answer in the style asked for, and with the prompt dropped to write any style."""
    generator, probs = torch.Generator().manual_seed(seed), chains()
    letters = torch.tensor([tokenizer(letter).input_ids[0] for letter in LETTERS])
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for _ in range(num_steps):
        styles = torch.randint(STYLES, (48,), generator=generator)
        path = [torch.randint(12, (48,), generator=generator)]
        for _ in range(NUM_NEW):
            path.append(torch.multinomial(probs[styles, path[-1]], 1, generator=generator)[:, 0])
        answers = letters[torch.stack(path, dim=1)]
        numbers = torch.randint(1000, (48,), generator=generator).tolist()
        prompts = [
            chat_prompt(tokenizer, question(style, number))
            for style, number in zip(styles.tolist(), numbers, strict=True)
        ]
        ids = torch.cat([torch.tensor(prompts), answers], dim=1)
        loss = torch.zeros(())
        for first, part in ((len(prompts[0]), ids), (1, ids[:, len(prompts[0]) - 1 :])):
            logits = model(input_ids=part, use_cache=False).logits[:, first - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, first:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def learn(store: Store, config: GuideConfig, taught: list[ModelArtifact], drawn: DatasetArtifact) -> AdapterArtifact:
    return guide.execute(config, GuideInputs(model=taught[0], data=(drawn,), second=taught[1]), store).artifact
