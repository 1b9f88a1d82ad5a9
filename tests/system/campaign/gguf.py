"""Mutated GGUF files: each is read as a model that is all there, or refused in a line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy
from gguf import GGUFWriter, TokenType

from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.system.campaign.mutate import changed_bytes

COUNT = 1_000
CLEAN = (ValueError,)
WIDTH, NUM_HEADS, NUM_INNER, NUM_BLOCKS, NUM_TOKENS = 32, 2, 64, 2, 300


def prepare(scratch: Path) -> bytes:
    """Return a valid file of two blocks, written by gguf-py; that it is taken is tried here."""
    path = scratch / "tiny.gguf"
    _write(path)
    ingest_model.execute(IngestModelConfig(source=f"gguf:{path}"), NoInputs(), Store(scratch / "store"))
    return path.read_bytes()


def attempt(content: bytes, seed: int, folder: Path) -> None:
    """Change bytes, more often in the header than among weights, and bring the file in."""
    random_ = random.Random(seed)
    for _ in range(random_.choice([1, 1, 2, 4])):
        cut = random_.choice([64, 2_000, 8_000, len(content)])
        content = changed_bytes(content[:cut], random_) + content[cut:]
    (folder / "tiny.gguf").write_bytes(content)
    ingest_model.execute(IngestModelConfig(source=f"gguf:{folder / 'tiny.gguf'}"), NoInputs(), Store(folder / "home"))


def _write(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(NUM_BLOCKS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(NUM_INNER)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_HEADS)
    writer.add_rope_dimension_count(WIDTH // NUM_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(NUM_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{index}" for index in range(NUM_TOKENS)])
    writer.add_token_types([TokenType.NORMAL] * NUM_TOKENS)
    writer.add_token_merges(["t 1", "t 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    generator = numpy.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, generator.standard_normal(shape).astype(numpy.float32) * 0.05)

    add("token_embd.weight", NUM_TOKENS, WIDTH)
    add("output_norm.weight", WIDTH)
    add("output.weight", NUM_TOKENS, WIDTH)
    for block in range(NUM_BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{name}.weight", WIDTH, WIDTH)
        add(f"blk.{block}.ffn_gate.weight", NUM_INNER, WIDTH)
        add(f"blk.{block}.ffn_up.weight", NUM_INNER, WIDTH)
        add(f"blk.{block}.ffn_down.weight", WIDTH, NUM_INNER)
        add(f"blk.{block}.attn_norm.weight", WIDTH)
        add(f"blk.{block}.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
