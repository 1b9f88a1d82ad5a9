#!/usr/bin/env bash
# tokenizers 0.23.3.
# In a Unigram model an unknown character costs the lowest score of the whole vocabulary and 10. So a piece that no text contains decides how
# other texts are cut: taken out, what is unknown becomes cheaper, and a text that was cut into two known pieces is cut through an unknown
# character. A vocabulary that is cut to what a corpus uses must keep its lowest piece, used or not.
# Output seen: with "zz": ['cd', 'e'], ids [1, 2]; without it: ['c', 'de'], ids [0, 3]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from tokenizers import Tokenizer
from tokenizers.models import Unigram

vocabulary = [("<unk>", 0.0), ("cd", -12.0), ("e", -11.9), ("de", -1.0), ("zz", -20.0)]


def cut(pieces):
    encoded = Tokenizer(Unigram(pieces, 0, False)).encode("cde")
    return encoded.tokens, encoded.ids


whole, without = cut(vocabulary), cut(vocabulary[:-1])
print(f'with "zz": {whole[0]}, ids {whole[1]}; without it: {without[0]}, ids {without[1]}')
assert whole == (["cd", "e"], [1, 2]) and without == (["c", "de"], [0, 3]), "the behaviour has changed"
PY
