"""The longest run of words that a tuned post shares with a training post is told with that post."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.rows.memorisation import memorisation
from synthpost_dagster.rows.rejection import normalised
from synthpost_dagster.schemas import Memorisation
from tests.helpers.varied_posts import varied_posts

TRAINING = ["Ride on, it is great. Buy now!", "Ride on, it is far. Buy two today!", "Tea for all."]


def table(posts: list[str], start: int = 0) -> pd.DataFrame:
    ids = [f"{at:016x}" for at in range(start, start + len(posts))]
    return pd.DataFrame(
        {"prompt_id": ids, "product": "Misty Terrace", "post": posts}, columns=["prompt_id", "product", "post"]
    )


def memorised(posts: list[str], training: list[str]) -> pd.DataFrame:
    """The rows for these posts, which follow the schema."""
    return Memorisation.validate(memorisation(table(posts), table(training, start=1_000)))


def test_run_is_reported_with_its_training_post() -> None:
    (row,) = memorised(["Oh! It is FAR: buy two, then three."], TRAINING).to_dict("records")
    assert row == {
        "prompt_id": f"{0:016x}",
        "post_words": 8,
        "shared_words": 5,
        "shared": "it is far buy two",
        "training_prompt_id": f"{1_001:016x}",
        "training_post": TRAINING[1],
    }


def test_first_training_post_with_the_run_is_reported() -> None:
    (row,) = memorised(["Ride on, it is new."], TRAINING).to_dict("records")
    assert (row["shared"], row["training_post"]) == ("ride on it is", TRAINING[0])


def test_post_that_is_a_training_post_shares_all_its_words() -> None:
    posts = varied_posts(40)
    found = memorised(posts[:20], posts)
    assert (found["shared_words"] == found["post_words"]).all()
    assert found["training_post"].tolist() == posts[:20]
    assert found["shared"].tolist() == [normalised(post) for post in posts[:20]]


@pytest.mark.parametrize("post", ["", "🎉", "Nothing of this"])
def test_post_that_shares_nothing_names_no_training_post(post: str) -> None:
    (row,) = memorised([post], TRAINING).to_dict("records")
    assert (row["shared_words"], row["shared"], row["training_prompt_id"], row["training_post"]) == (0, "", "", "")


def test_without_training_posts_nothing_is_shared() -> None:
    assert memorised(["Buy now", ""], [])["shared_words"].tolist() == [0, 0]


def test_index_of_the_tables_does_not_matter() -> None:
    posts, training = table(["Buy two today", "Tea for all"]), table(TRAINING, start=1_000)
    found = memorisation(posts.set_index(posts.index + 7), training.set_index(training.index + 9))
    assert found["training_post"].tolist() == TRAINING[1:]


def test_planted_run_is_found_among_many() -> None:
    training, posts = varied_posts(200), varied_posts(50, seed=9)
    run = " ".join(normalised(training[120]).split()[2:11])
    posts[30] = f"So {run} indeed"
    found = memorised(posts, training)
    assert found["shared_words"].idxmax() == 30
    assert (found["shared"].iloc[30], found["training_post"].iloc[30]) == (run, training[120])
    assert found["shared_words"].drop(30).max() < 5
