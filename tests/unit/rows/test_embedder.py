"""A real embedder from a folder, made here, tells posts apart by their words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.rows.diversity import diversity
from synthpost_dagster.rows.embeddings import embedded


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder that knows five words, each with a random vector of its own, and takes their mean."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[UNK]", "ride", "brew", "sleep", "today", "now"]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("embedder")
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(str(folder))
    return folder


def test_order_of_words_is_nothing_to_it_and_the_words_are(embedder: Path) -> None:
    vectors = embedded(["ride today", "today ride", "brew"], embedder)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1])
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert vectors[0] @ vectors[2] < 0.9


def test_reworded_post_is_a_semantic_near_duplicate(embedder: Path) -> None:
    found = diversity(["ride today", "today ride", "brew now", "sleep"], embedder)
    assert found["semantic_near_share"] == 0.25
    assert 0.25 < found["vendi"] < 1
    assert "vendi" not in diversity(["ride today", "today ride"])


def test_folder_that_holds_no_embedder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SpecError, match="cannot read this embedder"):
        embedded(["ride"], tmp_path)


def test_code_and_pickles_of_an_embedder_are_refused(embedder: Path, tmp_path: Path) -> None:
    foreign, pickled = shutil.copytree(embedder, tmp_path / "foreign"), shutil.copytree(embedder, tmp_path / "pickled")
    (foreign / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "planted.Module"}]))
    with pytest.raises(SpecError, match=r"planted\.Module is Python code of the embedder"):
        embedded(["ride"], foreign)
    (weights,) = pickled.rglob("model.safetensors")
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(SpecError, match=r"pytorch_model\.bin is a pickle"):
        embedded(["ride"], pickled)
