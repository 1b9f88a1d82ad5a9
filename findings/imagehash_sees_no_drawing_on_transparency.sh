#!/usr/bin/env bash
# ImageHash 4.3.2, pillow 12.0.0.
# Every perceptual hash drops the alpha channel without a word: what is under transparent pixels, mostly black, is hashed as if it were shown.
# Black drawings on a transparent ground, as icons and scanned signatures are, all have the same hash, whatever is drawn: 0 bits apart, where
# the same drawings on white are far apart. Who leaves near-duplicates out by such hashes leaves out all of them but one.
# Output seen: on transparency 0 bits apart, on white 38
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ImageHash==4.3.2 pillow==12.0.0
cd "$folder"
venv/bin/python - <<'PY'
import imagehash
from PIL import Image, ImageDraw

drawings = []
for shape in ((4, 4, 28, 60), (36, 30, 60, 40)):
    drawing = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(drawing).rectangle(shape, fill=(0, 0, 0, 255))
    drawings.append(drawing)
white = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
first, other = map(imagehash.phash, drawings)
first_shown, other_shown = (imagehash.phash(Image.alpha_composite(white, drawing)) for drawing in drawings)
print(f"on transparency {first - other} bits apart, on white {first_shown - other_shown}")
assert first - other == 0 and first_shown - other_shown > 10, "the behaviour has changed"
PY
