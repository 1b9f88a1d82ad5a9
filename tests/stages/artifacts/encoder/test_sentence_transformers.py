"""Our folders under sentence-transformers itself: the same vectors, and its own folders come in as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import EncoderArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.encoder.latent_tokens import latent_names
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.artifacts.encoder.conftest import NAMES, encoder_of

sentence_transformers = pytest.importorskip("sentence_transformers", reason="the peer is in no extra of ours")
TEXTS = [f"  {name} and " * (1 + 9 * index) for index, name in enumerate(NAMES)]


def vectors_of(folder: Path) -> torch.Tensor:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return model.encode(TEXTS, convert_to_tensor=True, batch_size=5)


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("bert", {"pooling": "mean", "is_normalized": True}),
        ("bert", {"pooling": "max", "max_tokens": 33}),
        ("roberta", {"pooling": "cls"}),
        ("distilbert", {"pooling": "mean_sqrt_len"}),
        ("mpnet", {"pooling": "mean", "is_normalized": True}),
    ],
)
def test_a_written_folder_gives_its_vectors(store: Store, family: str, form: dict) -> None:
    whole = encoder_of(store, f"random:{family}?num_blocks=3&hidden_size=32", **form)
    cut = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=whole), store).artifact
    for artifact in (whole, cut):
        ids = TextReader(artifact.path, artifact.facts.max_tokens)(TEXTS)
        scale = max(1.0, float(vectors_of(artifact.path).abs().max()))
        assert torch.allclose(vectors_of(artifact.path), encoded(load_encoder(artifact.path), ids), atol=1e-6 * scale)


def test_a_question_and_a_text_stand_behind_the_prompts_that_it_reads(store: Store) -> None:
    prompts = {"query_prompt": "query: ", "document_prompt": "passage: "}
    own = encoder_of(store, "random:bert?num_blocks=2&hidden_size=32", max_tokens=64, **prompts)
    model, reader = sentence_transformers.SentenceTransformer(str(own.path), device="cpu"), TextReader(own.path, 64)
    for encode, prompt in ((model.encode_query, "query: "), (model.encode_document, "passage: ")):
        expected = encoded(load_encoder(own.path), reader([prompt + text for text in NAMES]))
        assert torch.allclose(encode(list(NAMES), convert_to_tensor=True), expected, atol=1e-5)


def test_a_question_and_a_text_are_thought_through_as_here(store: Store) -> None:
    own = encoder_of(store, "random:roberta?num_blocks=2&hidden_size=32", max_tokens=24, latent={"num_tokens": 3})
    model, names = sentence_transformers.SentenceTransformer(str(own.path), device="cpu"), "".join(latent_names(3))
    expected = encoded(load_encoder(own.path), TextReader(own.path, 24)([names + text for text in TEXTS]))
    plain = encoded(load_encoder(own.path), TextReader(own.path, 24)(TEXTS))
    for encode in (model.encode_query, model.encode_document):
        assert torch.allclose(encode(TEXTS, convert_to_tensor=True), expected, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_a_folder_that_it_writes_comes_in_as_it_is(store: Store, tmp_path: Path) -> None:
    own: EncoderArtifact = encoder_of(
        store, "random:bert?num_blocks=2&hidden_size=32", is_normalized=True, max_tokens=40
    )
    sentence_transformers.SentenceTransformer(str(own.path), device="cpu").save(str(tmp_path / "written"))
    again = encoder_of(store, f"folder:{tmp_path / 'written'}")
    facts = again.facts
    assert (facts.pooling, facts.is_normalized, facts.max_tokens) == ("mean", True, 40)
    assert torch.allclose(vectors_of(again.path), vectors_of(own.path), atol=1e-6)
