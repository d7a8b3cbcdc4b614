"""Memorisation: text of tuned posts that is copied word for word from training posts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthpost_dagster.rows.corpus import longest_shared
from synthpost_dagster.text.normalize import normalised

if TYPE_CHECKING:
    import pandas as pd


def memorisation(predictions: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """The longest run of words that each prediction shares with a training post (schema Memorisation)."""
    posts, ids = training["post"].tolist(), training["prompt_id"].tolist()
    found = longest_shared(predictions["post"].tolist(), posts)
    return predictions[["prompt_id"]].assign(
        post_words=[len(normalised(post).split()) for post in predictions["post"]],
        shared_words=[shared.words for shared in found],
        shared=[shared.text for shared in found],
        training_prompt_id=[ids[shared.row] if shared.words else "" for shared in found],
        training_post=[posts[shared.row] if shared.words else "" for shared in found],
    )
