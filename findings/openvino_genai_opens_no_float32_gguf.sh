#!/usr/bin/env bash
# openvino 2026.4.1, openvino-genai 2026.4.1.0, openvino-tokenizers 2026.4.1.0, gguf 0.19.0, numpy 2.4.6.
# OpenVINO GenAI opens GGUF files, but of floats only halves: the same llama with its matrices in F32 or BF16, types that every GGUF reader begins
# with, is refused as an "Unsupported quantization type", although nothing in it is quantized. In F16, and in Q8_0, it is read.
# Output seen: F16: opened; F32: Unsupported quantization type; BF16: Unsupported quantization type; Q8_0: opened
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 openvino-genai==2026.4.1.0 \
    openvino-tokenizers==2026.4.1.0 gguf==0.19.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import gguf
import numpy as np
import openvino_genai
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType as FileType

WIDTH, INNER, TOKENS, BLOCKS, HEADS = 256, 512, 300, 2, 4
BLOCK = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH), "attn_v": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH)}
BLOCK |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}


def write(path, kind, file_type):
    random = np.random.default_rng(0)
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(512)
    file.add_embedding_length(WIDTH)
    file.add_block_count(BLOCKS)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_key_length(WIDTH // HEADS)
    file.add_value_length(WIDTH // HEADS)
    file.add_vocab_size(TOKENS)
    file.add_file_type(file_type)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("smollm")
    shown = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    tokens = [*shown, *(chr(256 + index) for index in range(256 - len(shown))), "<|endoftext|>"]
    file.add_token_list([*tokens, *(f"<unused {index}>" for index in range(TOKENS - len(tokens)))])
    file.add_token_types([3 if index == 256 else 1 for index in range(TOKENS)])
    file.add_token_merges(["t h"])
    file.add_bos_token_id(256)
    file.add_eos_token_id(256)

    def matrix(name, shape):
        numbers = (random.standard_normal(shape) * 0.05).astype(np.float32)
        if kind == Type.F32:
            file.add_tensor(name, numbers)
        elif kind == Type.F16:
            file.add_tensor(name, numbers.astype(np.float16))
        else:
            file.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)

    matrix("token_embd.weight", (TOKENS, WIDTH))
    matrix("output.weight", (TOKENS, WIDTH))
    file.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for block in range(BLOCKS):
        for name, shape in BLOCK.items():
            matrix(f"blk.{block}.{name}.weight", shape)
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{block}.{name}.weight", np.ones(WIDTH, np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


seen = {}
for kind, file_type in (
    (Type.F16, FileType.MOSTLY_F16),
    (Type.F32, FileType.ALL_F32),
    (Type.BF16, FileType.MOSTLY_BF16),
    (Type.Q8_0, FileType.MOSTLY_Q8_0),
):
    write(f"{kind.name}.gguf", kind, file_type)
    try:
        openvino_genai.LLMPipeline(f"{kind.name}.gguf", "CPU")
        seen[kind.name] = "opened"
    except RuntimeError as error:
        seen[kind.name] = str(error).strip().splitlines()[-1]
print("; ".join(f"{name}: {what}" for name, what in seen.items()))
refused = "Unsupported quantization type"
assert seen == {"F16": "opened", "F32": refused, "BF16": refused, "Q8_0": "opened"}, "the behaviour has changed"
PY
