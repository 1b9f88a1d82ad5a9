"""A tokenizer comes in and goes along whole: every file and template, more tokens than rows, and what its template cannot do is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.model.older_form import NEWER_CLASS, OLDER_CLASS, write_older_tokenizer
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer, tokenizer_files
from attar.stages.contract import NoInputs
from attar.stages.ingest.arrival import arrival_facts
from attar.stages.ingest.chat_traits import chat_traits
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.source_line import FetchedModel
from attar.stages.ingest.tiny_model import byte_tokenizer, random_model
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune

SECOND = "{% for message in messages %}{{ message['content'] }}{{ tools }}{% endfor %}"
IMAGE = "<image_soft_token>"


def write_folder(path: Path, change: Callable[[Any], None] = lambda tokenizer: None, family: str = "llama") -> Path:
    model, tokenizer = random_model(family, num_blocks=3, hidden_size=32)
    change(tokenizer)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def ingest(store: Store, folder: Path) -> ModelArtifact:
    return ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact


def two_templates(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": SECOND}


def test_second_templates_and_files_of_other_programs_go_through_ingest_and_a_cut(store: Store, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "given", two_templates)
    beside = {"tokenizer.model": "pieces", "merges.txt": "", "source.spm": "pieces", "README.md": "not of it"}
    for name, text in beside.items():
        (folder / name).write_text(text)
    model = ingest(store, folder)
    cut = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=model), store).artifact
    for artifact in (model, cut):
        names = {str(path) for path in tokenizer_files(artifact.path)}
        assert names >= {"additional_chat_templates/tool_use.jinja", "tokenizer.model", "merges.txt", "source.spm"}
        assert "README.md" not in names
        assert load_tokenizer(artifact.path).chat_template["tool_use"] == SECOND
    assert model.facts["num_chat_templates"] == 2


def test_templates_given_as_a_list_in_the_older_form_come_in_too(store: Store, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "given")
    default = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "default", "template": default}, {"name": "tool_use", "template": SECOND}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(ingest(store, folder).path).chat_template == {"default": default, "tool_use": SECOND}


def one_token_more(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})


def test_a_tokenizer_with_a_token_more_than_the_embedding_is_taken_and_texts_with_it_refused(
    store: Store, tmp_path: Path
) -> None:
    model = ingest(store, write_folder(tmp_path / "given", one_token_more, "gemma3"))
    assert model.facts["num_tokens_without_row"] == 1
    tokenizer = load_tokenizer(model.path)
    plain = byte_tokenizer()
    assert tokenizer("a <image> 12").input_ids == plain("a <image> 12").input_ids
    assert IMAGE not in tokenizer.get_vocab()
    turns = [{"role": "user", "content": f"What is {IMAGE}?"}]
    ways: list[Callable[[], object]] = [
        lambda: tokenizer(f"see {IMAGE}"),
        lambda: tokenizer(["fine", f"see {IMAGE}"]),
        lambda: tokenizer.encode(IMAGE),
        lambda: tokenizer(f"see {IMAGE}", return_tensors="pt"),
        lambda: tokenizer.apply_chat_template(turns),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=rf"the text contains '{IMAGE}', for which the model has no embedding row"):
            way()


def test_a_token_that_ends_every_answer_must_have_a_row(tmp_path: Path) -> None:
    model, tokenizer = random_model("llama", num_blocks=1, hidden_size=32)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="eos_token '<end>' has no row in the model's embedding of 259 rows"):
        arrival_facts(FetchedModel(model, load_tokenizer(tmp_path)))


LOOP = "{% for m in messages %}<|im_start|>"
TEMPLATES: dict[str, tuple[Any, dict[str, object], str]] = {
    "none": (None, {"chat_template": "none"}, ""),
    "plain": (LOOP + "{{ m['role'] + m['content'] }}{% endfor %}", {}, ""),
    "no system": (
        LOOP
        + "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ m['content'] }}{% endfor %}",
        {"chat_system": "raises"},
        "takes no system message: no system role",
    ),
    "system left out": (
        LOOP + "{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
        {"chat_system": "left_out"},
        "leaves a system message out",
    ),
    "parts": (
        LOOP + "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}",
        {"chat_template": "parts"},
        "content given as parts alone",
    ),
    "raises": ("{{ raise_exception('bring a tool') }}", {"chat_template": "raises"}, "bring a tool"),
    "no default": (
        {"tool_use": SECOND, "rag": SECOND},
        {"num_chat_templates": 2, "chat_template": "no_default"},
        r"\(rag, tool_use\) and none is the default",
    ),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_a_chat_template_does_not_do_is_a_fact_and_a_line(kind: str) -> None:
    template, facts, line = TEMPLATES[kind]
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    traits, lines = chat_traits(tokenizer)
    assert traits == facts and len(lines) == bool(line)
    if line:
        assert re.search(line, lines[0]) and "\n" not in lines[0]


def test_the_tokenizer_s_config_uses_words_that_transformers_4_knows(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": NEWER_CLASS, "extra_special_tokens": ["<a>"], "pad_token": "<p>"}))
    write_older_tokenizer(tmp_path)
    words = {"tokenizer_class": OLDER_CLASS, "additional_special_tokens": ["<a>"], "pad_token": "<p>"}
    assert json.loads(path.read_text()) == words
    copy_tokenizer(tmp_path, tmp_path / "copy")
    assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()
