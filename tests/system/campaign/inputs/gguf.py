"""Mutated GGUF files: each is read as a model that is all there, or refused in a line."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quantize

from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.system.campaign.inputs.mutate import changed_bytes, changed_word

COUNT = 1_000
CLEAN = (ValueError,)
WIDTH, NUM_HEADS, NUM_INNER, NUM_BLOCKS, NUM_TOKENS = 32, 2, 64, 2, 300
# A merge's parts are tokens themselves.
TOKENS = ["<s>", "</s>", "t", "1", "2", "t1", "t2", *(f"x{index}" for index in range(NUM_TOKENS - 7))]
HEADER: dict[str, Any] = {
    "general.name": "tiny", "llama.block_count": NUM_BLOCKS, "llama.context_length": 128, "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": NUM_INNER, "llama.attention.head_count": NUM_HEADS, "llama.attention.head_count_kv": NUM_HEADS,
    "llama.rope.dimension_count": WIDTH // NUM_HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": NUM_TOKENS,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3] + [1] * (NUM_TOKENS - 2), "tokenizer.ggml.merges": ["t 1", "t 2"], "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
}  # fmt: skip
# What another program might write for a number, a word or a list.
ODD = (0, 1, 3, 7, 33, 2**31 - 1, -1, 0.0, 1e30, "", "x", "llama", "bert", True, [1], ["a"], ["t1"] * 5)
ODD += (TOKENS[:-1],)
FORMS = ("F32", "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")


def prepare(scratch: Path) -> list[bytes]:
    """Return valid files of two blocks, a storage form each, written by gguf-py; that they are taken is tried here."""
    contents = []
    for form in sorted(set(FORMS)):
        path = scratch / f"{form}.gguf"
        _write(path, HEADER, _tensors(), form)
        ingest_model.execute(IngestModelConfig(source=f"gguf:{path}"), NoInputs(), Store(scratch / "store"))
        contents.append(path.read_bytes())
    return contents


def attempt(contents: list[bytes], seed: int, folder: Path) -> None:
    """Change bytes, more often in the header than among weights, or what a program wrote; bring the file in."""
    random_ = random.Random(seed)
    path = folder / "tiny.gguf"
    if random_.random() < 0.5:
        content = random_.choice(contents)
        for _ in range(random_.choice([1, 1, 2, 4])):
            cut = random_.choice([64, 2_000, 8_000, len(content)])
            content = changed_bytes(content[:cut], random_) + content[cut:]
        path.write_bytes(content)
    else:
        header, tensors = dict(HEADER), _tensors()
        for _ in range(random_.choice([1, 1, 2])):
            _change_header(header, random_) if random_.random() < 0.5 else _change_tensors(tensors, random_)
        try:
            _write(path, header, tensors, random_.choice(FORMS))
        except (ValueError, OverflowError, struct.error):  # what gguf-py cannot write
            path.write_bytes(b"GGUF")
    ingest_model.execute(IngestModelConfig(source=f"gguf:{path}"), NoInputs(), Store(folder / "home"))


def _change_header(header: dict[str, Any], random_: random.Random) -> None:
    key = random_.choice(sorted(header))
    action = random_.choice(["odd", "odd", "gone", "rename", "other architecture"])
    if action == "odd":
        header[key] = random_.choice(ODD)
    elif action == "gone":
        del header[key]
    elif action == "rename":
        header[changed_word(key, random_)] = header.pop(key)
    else:
        header["general.architecture"] = random_.choice(["qwen2", "gemma2", "phi3", "nothing", ""])


def _change_tensors(tensors: dict[str, numpy.ndarray], random_: random.Random) -> None:
    name = random_.choice(sorted(tensors))
    action = random_.choice(["gone", "rename", "copy", "wide", "flat", "nan", "surplus"])
    if action == "gone":
        del tensors[name]
    elif action == "rename":
        tensors[changed_word(name, random_)] = tensors.pop(name)
    elif action == "copy":
        tensors[name] = tensors[random_.choice(sorted(tensors))]
    elif action == "wide":
        tensors[name] = numpy.repeat(tensors[name], 2, axis=random_.randrange(tensors[name].ndim))
    elif action == "flat":
        tensors[name] = tensors[name].reshape(-1, WIDTH).T.copy()
    elif action == "nan":
        tensors[name] = numpy.full_like(tensors[name], random_.choice([numpy.nan, numpy.inf, 0.0]))
    else:
        tensors[random_.choice(["blk.2.attn_q.weight", "x", "rope_freqs.weight"])] = tensors[name]


def _tensors() -> dict[str, numpy.ndarray]:
    generator = numpy.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (NUM_TOKENS, WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (NUM_TOKENS, WIDTH),
    }
    for block in range(NUM_BLOCKS):
        shapes |= {f"blk.{block}.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{block}.ffn_{part}.weight": (NUM_INNER, WIDTH) for part in ("gate", "up")}
        shapes |= {f"blk.{block}.ffn_down.weight": (WIDTH, NUM_INNER)}
        shapes |= {f"blk.{block}.{part}_norm.weight": (WIDTH,) for part in ("attn", "ffn")}
    return {name: generator.standard_normal(shape).astype(numpy.float32) * 0.05 for name, shape in shapes.items()}


def _write(path: Path, header: dict[str, Any], tensors: dict[str, numpy.ndarray], form: str) -> None:
    writer = GGUFWriter(path, header.get("general.architecture", "llama"))
    for key, value in header.items():
        if key != "general.architecture":
            writer.add_key_value(key, value, _type_of(value))
    for name, tensor in tensors.items():
        kind = GGMLQuantizationType[form if tensor.ndim > 1 and tensor.shape[-1] % 32 == 0 else "F32"]
        writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _type_of(value: Any) -> GGUFValueType:
    if isinstance(value, bool):
        return GGUFValueType.BOOL
    if isinstance(value, int):
        return GGUFValueType.UINT32 if value >= 0 else GGUFValueType.INT32
    if isinstance(value, float):
        return GGUFValueType.FLOAT32
    return GGUFValueType.STRING if isinstance(value, str) else GGUFValueType.ARRAY
