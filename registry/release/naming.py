"""What versions and their tags are called, without MLflow: to read a name takes no seconds."""

from __future__ import annotations

import re

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
KEY_TAG = "attar.key"
# sha256 of the version's own list of checksums: a version whose files and list were both changed is found too
CHECKSUMS_TAG = "attar.checksums"
# NAME (its champion), NAME@ALIAS or NAME/VERSION, with or without `models:/`
REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^@/]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>\d+))?")
