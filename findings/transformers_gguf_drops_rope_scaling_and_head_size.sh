#!/usr/bin/env bash
# transformers 5.23.0, gguf 0.19.0, torch 2.13.0.
# Of a GGUF header transformers reads what its table lists, and says nothing of the rest. A Llama's rotary scaling (`rope.scaling.type`, `.factor`) is
# not in the table: the model comes in with the default rotation and computes something else from its first tokens on. Of a Qwen3
# `attention.key_length` is not read either: its heads are taken as 128 wide, the class's default, whatever the file says.
# Output seen: llama: the file says linear x 4, the config default; qwen3: the file says heads of 64, the config 128
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 numpy==2.4.6 accelerate==1.15.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import gguf
import numpy
from transformers import AutoConfig


def config_of(arch, **more):
    writer = gguf.GGUFWriter(f"{arch}.gguf", arch)
    writer.add_name("small")
    sizes = {"context_length": 256, "embedding_length": 256, "block_count": 2, "feed_forward_length": 512}
    for key, value in {**sizes, "attention.head_count": 4, "attention.head_count_kv": 2, "vocab_size": 32}.items():
        writer.add_uint32(f"{arch}.{key}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32(f"{arch}.rope.freq_base", 10000.0)
    for key, (add, value) in more.items():
        getattr(writer, add)(f"{arch}.{key.replace('__', '.')}", value)
    writer.add_tensor("token_embd.weight", numpy.zeros((32, 256), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoConfig.from_pretrained(".", gguf_file=f"{arch}.gguf")


scaled = config_of("llama", rope__scaling__type=("add_string", "linear"), rope__scaling__factor=("add_float32", 4.0))
narrow = config_of("qwen3", attention__key_length=("add_uint32", 64), attention__value_length=("add_uint32", 64))
kind = scaled.rope_parameters["rope_type"]
print(f"llama: the file says linear x 4, the config {kind}; qwen3: the file says heads of 64, the config {narrow.head_dim}")
assert kind == "default" and narrow.head_dim == 128, "the behaviour has changed"
PY
