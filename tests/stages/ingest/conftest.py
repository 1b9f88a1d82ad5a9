"""Fixtures of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import ModelArtifact


@pytest.fixture
def folder(model: ModelArtifact, tmp_path: Path) -> Path:
    """A local model folder of the user's, free to be damaged."""
    copy = tmp_path / "my_model"
    shutil.copytree(model.path, copy)
    return copy


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a byte-pair tokenizer, written as GGUF."""
    import gguf
    import numpy as np

    from attar.stages.ingest.tiny_model import byte_tokenizer

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokenizer = byte_tokenizer()
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    tokens.append(tokens[40] + tokens[41])  # GGUF byte-pair tokenizers have at least one merge
    hidden, blocks, heads = 32, 2, 4
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_license("Apache-2.0")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index < 3 else 1 for index in range(len(tokens))])
    writer.add_token_merges([f"{tokens[40]} {tokens[41]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(0)
    shapes = {
        "attn_q": (hidden, hidden),
        "attn_k": (hidden, hidden),
        "attn_v": (hidden, hidden),
        "attn_output": (hidden, hidden),
    }
    shapes |= {"ffn_gate": (64, hidden), "ffn_up": (64, hidden), "ffn_down": (hidden, 64)}
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", random.normal(size=(len(tokens), hidden)).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    for block in range(blocks):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{block}.{name}.weight", random.normal(size=shape).astype(np.float32))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(hidden, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
