"""The Vendi score and semantic near-duplicates against hand-made figures; the embedder itself is not asked."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.rows import embeddings
from synthpost_dagster.rows.diversity import diversity_table
from synthpost_dagster.rows.embeddings import embedded, meaning, near_share, vendi
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.schemas import Diversity
from synthpost_dagster.tasks.task import Task
from tests.helpers.varied_posts import varied_posts


def directions(*degrees: float) -> np.ndarray:
    """Vectors of length 1 in the plane."""
    return np.array([(math.cos(math.radians(d)), math.sin(math.radians(d))) for d in degrees], dtype=np.float32)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the embedder is asked for; it gives each post a direction of its own."""
    seen: list[list[str]] = []

    def embedder(posts: list[str], folder: Path) -> np.ndarray:
        seen.append(posts)
        return np.eye(len(posts), dtype=np.float32)

    monkeypatch.setattr(embeddings, "embedded", embedder)
    return seen


def test_vectors_that_are_all_alike_amount_to_one() -> None:
    assert vendi(directions(30, 30, 30, 30)) == pytest.approx(1 / 4, rel=1e-5)


def test_vectors_at_right_angles_are_all_different() -> None:
    assert vendi(np.eye(6, dtype=np.float32)) == pytest.approx(1)


def test_two_pairs_of_alike_vectors_amount_to_two() -> None:
    assert vendi(directions(0, 0, 90, 90)) == pytest.approx(2 / 4)


def test_vendi_score_of_two_vectors_follows_their_cosine() -> None:
    high, low = (1 + math.cos(math.radians(60))) / 2, (1 - math.cos(math.radians(60))) / 2
    entropy = -(high * math.log(high) + low * math.log(low))
    assert vendi(directions(0, 60)) == pytest.approx(math.exp(entropy) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("vectors", "share"),
    [
        (directions(0, 90), 0),
        (directions(0, 10), 1 / 2),  # cosine 0.985
        (directions(0, 20), 0),  # cosine 0.940
        (directions(0, 0, 0, 90), 2 / 4),
        (directions(0, 180), 0),
    ],
)
def test_vector_is_near_where_an_earlier_one_is(vectors: np.ndarray, share: float) -> None:
    assert near_share(vectors) == share


def test_vectors_are_compared_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = directions(0, 40, 80, 120, 0, 160, 40)
    whole = near_share(vectors)
    monkeypatch.setattr(embeddings, "_BLOCK", 2)
    assert near_share(vectors) == whole == 2 / 7


def test_metrics_of_meaning_use_a_seeded_sample_in_order(
    monkeypatch: pytest.MonkeyPatch, asked: list[list[str]]
) -> None:
    monkeypatch.setattr(embeddings, "EMBEDDED_POSTS", 10)
    posts = [f"post {at:02}" for at in range(30)]
    assert meaning(posts, Path("none")) == {"vendi": pytest.approx(1), "semantic_near_share": 0}
    assert meaning(posts, Path("none")) == meaning(posts, Path("none"))
    assert asked[0] == asked[1] == asked[2] == sorted(asked[0])
    assert len(set(asked[0])) == 10


@pytest.mark.parametrize("posts", [[], ["one"]])
def test_fewer_than_two_posts_have_no_meaning_to_compare(posts: list[str], asked: list[list[str]]) -> None:
    assert all(math.isnan(value) for value in meaning(posts, Path("none")).values())
    assert asked == []


def test_diversity_table_has_metrics_of_meaning_with_an_embedder(small_task: Task, asked: list[list[str]]) -> None:
    kept: pd.DataFrame = training_prompts(small_task).head(20).assign(post=varied_posts(20))
    with_meaning = Diversity.validate(diversity_table(kept, kept, small_task, 8, Path("none"))).set_index("metric")
    without = diversity_table(kept, kept, small_task, 8).set_index("metric")
    assert set(with_meaning.index) - set(without.index) == {"vendi", "semantic_near_share"}
    assert with_meaning["draws_mean"].loc[["vendi", "semantic_near_share"]].isna().all()


def test_missing_embedder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"synthpost\[embeddings\]|correct `embedder` in the profile"):
        embedded(["a", "b"], tmp_path / "none")
