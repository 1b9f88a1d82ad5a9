#!/usr/bin/env bash
# gguf 0.19.0.
# `GGUFWriter.add_chat_template([{name, template}, ...])` collects the names in a set and writes `tokenizer.chat_templates` in the set's order, which
# is another in every process: the same model converted twice gives two files, whose sha256 differ. With PYTHONHASHSEED set they do not.
# Output seen: orders of three names over 12 processes: 5 (at least 2); with one hash seed: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0
cd "$folder"
cat > write.py <<'PY'
import gguf

writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_chat_template([{"name": name, "template": "x"} for name in ("default", "tool_use", "rag", "thinking")])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(",".join(gguf.GGUFReader("model.gguf").fields["tokenizer.chat_templates"].contents()))
PY
orders=$(for seed in 1 2 3 4 5 6 7 8 9 10 11 12; do PYTHONHASHSEED=$seed venv/bin/python -W ignore write.py; done | sort -u | wc -l)
same=$(for _ in 1 2 3; do PYTHONHASHSEED=1 venv/bin/python -W ignore write.py; done | sort -u | wc -l)
echo "orders of three names over 12 processes: $orders; with one hash seed: $same"
test "$orders" -gt 1
test "$same" -eq 1
