#!/usr/bin/env bash
# gguf 0.19.0.
# `GGUFWriter.add_array(key, [])` and `add_string(key, "")` write nothing: the key is not in the file, and nothing is said. A reader cannot
# tell an empty list (a tokenizer without merges) from a file whose writer forgot it, and looking the key up fails. False and 0 are written.
# Output seen: keys in the file: general.architecture, llama.block_count, tokenizer.ggml.add_bos_token
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import gguf

writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_array("tokenizer.ggml.merges", [])
writer.add_string("general.name", "")
writer.add_bool("tokenizer.ggml.add_bos_token", False)
writer.add_uint32("llama.block_count", 0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
keys = sorted(key for key in gguf.GGUFReader("model.gguf").fields if not key.startswith("GGUF."))
print(f"keys in the file: {', '.join(keys)}")
assert keys == ["general.architecture", "llama.block_count", "tokenizer.ggml.add_bos_token"], "the behaviour has changed"
PY
