"""Print what pyproject.toml asks for, with the extras named, one a line: a layer of its own, which a change of our code leaves as it is.

python requirements.py EXTRA...         of the product with these extras and the image's
python requirements.py --only EXTRA...  of the extras alone
"""

import re
import sys
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]  # noqa: SIM115


def wanted(extra: str) -> list[str]:
    """Return an extra's requirements, those of the extras it names included."""
    lines = []
    for requirement in project["optional-dependencies"][extra]:
        nested = re.fullmatch(r"attar\[(.*)\]", requirement)
        lines += [line for name in nested[1].split(",") for line in wanted(name)] if nested else [requirement]
    return lines


is_alone = sys.argv[1:2] == ["--only"]
extras = sys.argv[2:] if is_alone else ["image", *sys.argv[1:]]
print(*([] if is_alone else project["dependencies"]), *(line for extra in extras for line in wanted(extra)), sep="\n")
