"""Names of models and data sets on a hub, as people copy them, and how a recipe writes them. And what its clients refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from attar.registry.artifacts.files import is_disk_full

# No name of a hub is half as long.
MAX_LENGTH = 300
# What a hub's clients say goes over lines, with advice and the number of the request.
MAX_REASON_LENGTH = 240
# Where the pages and the file system of the public hub are, with and without a scheme.
ADDRESS = re.compile(
    r"(?:(?:hub|hf|huggingface):(?!//))?\s*(?P<address>(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://|git@hf\.co:)?(?P<rest>.*)",
    re.IGNORECASE,
)
ID = re.compile(
    r"(?P<kind>(?:models|datasets|spaces)/)?(?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?"
    r"(?:@(?P<revision>(?:refs/[\w-]+/)?[\w.-]*)(?:/[^:]*)?|/(?:tree|blob|resolve|raw|commit|commits)/(?P<branch>[\w.-]+)(?:/[^:]*)?|/.*?)?(?::(?P<split>\w+))?/*"
)
# A model of the first years, such as gpt2, whose owner is not said.
LONE = re.compile(
    r"(?:hub:|hf:|hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)\s*(?P<name>[\w.-]+)(?:@.*)?/*",
    re.IGNORECASE,
)


def hub_cure(source: str, *, is_model: bool) -> str:
    """Return the end of a refusal that tells how to write a hub's name that was copied from elsewhere. Empty for what is none."""
    text = source[:MAX_LENGTH].strip().partition("?")[0].partition("#")[0]
    lone = LONE.fullmatch(text)
    if lone:
        return f"; write the owner and the revision too: hub:OWNER/{lone['name']}@main"
    address = ADDRESS.fullmatch(text)
    is_hub = address is not None and (address["address"] or text[: len(text) - len(address["rest"])].strip())
    parts = ID.fullmatch(address["rest"].strip()) if address else None
    if parts is None or not (is_hub or _is_bare(text)):
        return ""
    if parts["kind"] == "spaces/":
        return "; a space of a hub is neither a model nor a data set"
    revision = (parts["revision"] or "").strip("/") or parts["branch"] or "main"
    split = f":{parts['split']}" if parts["split"] and parts["split"] != revision else ""
    stage = "; a data set is read by ingest_data" if parts["kind"] == "datasets/" and is_model else ""
    return f"; write hub:{parts['owner']}/{parts['name']}@{revision}{split} (a commit in place of a branch never changes){stage}"


def _is_bare(text: str) -> bool:
    """Tell whether a text is OWNER/NAME alone, as a hub's own tools take it: no path that begins or ends elsewhere."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(?:@[\w./-]*)?/?", text) is not None


@contextmanager
def asked_of_hub(source: str) -> Iterator[None]:
    """Refuse, in one line that names the source, what the hub's clients raise inside the block. A full disk stays one."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source}: the hub did not give it: {reason[:MAX_REASON_LENGTH]}") from error
