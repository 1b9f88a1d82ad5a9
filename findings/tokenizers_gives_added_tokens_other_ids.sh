#!/usr/bin/env bash
# tokenizers 0.23.3.
# The `id` of an added token in tokenizer.json is not what the token gets: one that the model's vocabulary lacks gets the next free number,
# and nothing is said. A file whose added token says 9 behind a vocabulary of 3 gives it 3, a row of the embedding that is another's or
# nobody's. Who cuts or joins vocabularies in the file must leave no gap.
# Output seen: the file says {'<a>': 9, '<b>': 20}, the tokenizer {'<a>': 3, '<b>': 4}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json

from tokenizers import Tokenizer
from tokenizers.models import BPE

document = json.loads(Tokenizer(BPE({"x": 0, "y": 1, "xy": 2}, [("x", "y")])).to_str())
flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
ids = {"<a>": 9, "<b>": 20}
document["added_tokens"] = [{"id": index, "content": token, **flags} for token, index in ids.items()]
tokenizer = Tokenizer.from_str(json.dumps(document))
given = {token: tokenizer.token_to_id(token) for token in ids}
print(f"the file says {ids}, the tokenizer {given}")
assert given == {"<a>": 3, "<b>": 4}, "the behaviour has changed"
PY
