"""Is the file the model? Its weights as they are written are put into torch, and what readers of the file write is compared with that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attar.compressors.export.parity import DecodedPrompt, Parity, listen_to, measure_parity
from attar.compressors.measure.closeness import closeness
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.stages.artifacts.gguf.header import Architecture
from attar.stages.artifacts.gguf.reading import fill_weights
from attar.stages.export.config import ExportConfig
from attar.stages.export.gguf.runtimes import RUNTIMES, RuntimeText, run_prompts
from attar.stages.export.gguf.transformers_reader import read_into_model
from attar.stages.quantize.recorded_runner import RecordedRunner
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Rounding:
    """What rounding the weights cost over the float model's answers. KL in nats a token; share of tokens at which both agree."""

    kl_nats: float
    agreement: float


def read_weights(model: PreTrainedModel, architecture: Architecture, path: Path) -> None:
    """Put the file's weights into a model of the folder, in place. Done with gguf-py's reader."""
    from gguf import GGUFReader  # in an extra

    fill_weights(model, architecture, {tensor.name: tensor for tensor in GGUFReader(path).tensors})


def measure_rounding(
    original: PreTrainedModel,
    architecture: Architecture,
    path: Path,
    prompts: Prompts,
    num_new_tokens: int,
    scratch: Path,
) -> Rounding:
    """Return what rounding costs. The original becomes the model of the file on the way, so that there is one in memory."""
    counter = bar("asking the original", 2 * len(prompts), "prompts")
    runner = TorchRunner(original)
    texts = decode(runner, prompts, max_new_tokens=num_new_tokens, stop_ids=(), on_finished=counter.advance)
    pairs: list[Pair] = [(list(prompt), text.token_ids) for prompt, text in zip(prompts, texts, strict=True)]
    recorded = RecordedRunner(runner, pairs, scratch, counter.advance)
    read_weights(original, architecture, path)
    counter = bar("measuring the rounding", len(pairs), "prompts")
    sums = closeness(TorchRunner(original), recorded, pairs, batch_size=1, on_scored=counter.advance)
    num_tokens = sum(text.num_tokens for text in sums)
    rounding = Rounding(
        sum(text.kl_nats for text in sums) / num_tokens, sum(text.num_agreeing for text in sums) / num_tokens
    )
    metric("kl_nats", rounding.kl_nats)
    note(
        f"rounding: KL {rounding.kl_nats:.2g} nats a token, greedy agreement {rounding.agreement:.1%}, {num_tokens} tokens"
    )
    return rounding


def prove_by_transformers(
    config: ExportConfig, reference: PreTrainedModel, path: Path, folder: Path, prompts: Prompts, scratch: Path
) -> Parity:
    """Compare text and logits of transformers' reading of the file with the reference's. Raises ValueError when they differ."""
    counter = bar("writing with transformers' reading", len(prompts), "prompts")
    reading = TorchRunner(read_into_model(path, folder))
    answers = listen_to(reading, prompts, scratch, num_new_tokens=config.num_new_tokens, on_prompt=counter.advance)
    del reading
    give_back()
    return _compared(config, answers, reference)


def _compared(config: ExportConfig, answers: list[DecodedPrompt], reference: PreTrainedModel) -> Parity:
    counter = bar("comparing with torch", len(answers), "prompts")
    parity = measure_parity(answers, TorchRunner(reference), on_prompt=counter.advance)
    for name in ("max_logit_difference", "mean_logit_difference", "token_agreement"):
        metric(name, getattr(parity, name))
    summary = f"max logit difference {parity.max_logit_difference:.2g}, greedy agreement {parity.token_agreement:.1%}"
    note(f"transformers reads the file: {summary} over {parity.num_prompts} prompts")
    is_near = parity.max_logit_difference <= config.max_logit_difference
    if not is_near or parity.token_agreement < config.min_token_agreement:
        raise ValueError(
            f"transformers reads another model out of the file: {summary}; accepted: agreement >= "
            f"{config.min_token_agreement:.0%}, difference <= {config.max_logit_difference:g}"
        )
    return parity


@dataclass(frozen=True)
class RuntimeProof:
    """What a runtime made of the file. The share of greedy tokens before the first that is not torch's, and seconds a token."""

    name: str
    token_agreement: float
    seconds_per_token: float


def prove_by_runtimes(
    config: ExportConfig,
    reference: PreTrainedModel,
    path: Path,
    prompts: Prompts,
    *,
    ends: Collection[int],
    decides: bool,
) -> list[RuntimeProof]:
    """Let every installed runtime write, and compare with torch. Where its own sums are rounded too, `decides` is False: it is told alone.

    `ends`: tokens at which a runtime may stop.

    Raises ValueError for a runtime that does not open the file or, where it decides, writes another text.
    """
    counter = bar("running the file", len(RUNTIMES), "runtimes")
    expected = decode(TorchRunner(reference), prompts, max_new_tokens=config.num_new_tokens, stop_ids=())
    proofs = []
    for runtime in RUNTIMES:
        texts = run_prompts(runtime, path, prompts, config.num_new_tokens)
        counter.advance()
        if texts is None:
            note(f"{runtime.name} is not installed, so it did not run the file: {runtime.install}")
            continue
        proof = _runtime_proof(runtime.name, texts, [text.token_ids for text in expected], ends)
        metric(f"token_agreement_{runtime.name}", proof.token_agreement)
        note(f"{runtime.name}: greedy agreement {proof.token_agreement:.1%}, {_speed(proof)} tokens a second")
        if decides and proof.token_agreement < config.min_token_agreement:
            raise ValueError(
                f"{runtime.name} writes another text than torch: greedy agreement {proof.token_agreement:.1%}; "
                f"accepted: >= {config.min_token_agreement:.0%}"
            )
        proofs.append(proof)
    return proofs


def _speed(proof: RuntimeProof) -> str:
    return f"{1 / proof.seconds_per_token:.1f}" if proof.seconds_per_token else "?"


def _runtime_proof(
    name: str, texts: Sequence[RuntimeText], expected: Sequence[Sequence[int]], ends: Collection[int]
) -> RuntimeProof:
    """Count the tokens before the first that differs. Where a runtime stops, the token that it did not write must be an end.

    What torch writes behind an end does not count.
    """
    num_agreed = num_compared = 0
    for text, ids in zip(texts, expected, strict=True):
        num_written = len(text.token_ids)
        num_same = next(
            (index for index, (a, b) in enumerate(zip(text.token_ids, ids, strict=False)) if a != b), num_written
        )
        has_stopped = num_same == num_written < len(ids)
        num_agreed += num_same + (has_stopped and ids[num_written] in ends)
        num_compared += num_written + has_stopped
    seconds = sum(text.seconds_per_token for text in texts) / len(texts)
    return RuntimeProof(name, num_agreed / num_compared, seconds)
