#!/usr/bin/env bash
# mkdocs 1.6.1, mkdocs-material 9.8.2.
# With Material's own plugin `offline`, which is there for sites that are read from a folder without a network, every page loads a script from
# unpkg.com, and without it the search does not work. Without the plugin (and with `font: false`) no page asks another host.
# Output seen: hosts asked without the plugin: []; with it: ['unpkg.com']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mkdocs==1.6.1 mkdocs-material==9.8.2
cd "$folder"
mkdir docs
echo "# A page" > docs/index.md
for plugins in search search,offline; do
  printf 'site_name: a\ntheme: {name: material, font: false}\nplugins: [%s]\n' "$plugins" > mkdocs.yml
  NO_MKDOCS_2_WARNING=1 venv/bin/mkdocs --quiet build --site-dir "site-${plugins//,/-}"
done
venv/bin/python - <<'PY'
import re
from pathlib import Path

hosts = [
    sorted(set(re.findall(r'(?:src=|import\()"https://([^/"]+)', Path(f"{folder}/index.html").read_text())))
    for folder in ("site-search", "site-search-offline")
]
print(f"hosts asked without the plugin: {hosts[0]}; with it: {hosts[1]}")
assert hosts == [[], ["unpkg.com"]], "the behaviour has changed"
PY
