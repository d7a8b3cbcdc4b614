"""A trait of style that separates the outcomes is found; one that goes with a better side is not."""

from __future__ import annotations

import numpy as np
import pytest

from synthpost_dagster.statistics.style import separation, separations


def posts(lengths: list[int]) -> list[str]:
    return [" ".join(["word"] * length) for length in lengths]


def test_judge_that_follows_length_alone_is_found() -> None:
    random = np.random.default_rng(7)
    baseline = random.integers(40, 60, 200)
    candidate = baseline + np.where(random.random(200) < 0.8, 7, -7)
    outcomes = ["win" if longer else "loss" for longer in candidate > baseline]
    found = separations(posts(list(candidate)), posts(list(baseline)), outcomes)
    assert [one.trait for one in found] == ["words", "characters"]
    assert (found[0].is_more_preferred, found[0].followed, found[0].unlike) == (True, 200, 200)


def test_judge_that_prefers_fewer_hashtags_is_found() -> None:
    more = ["Buy it #now"] * 15 + ["Buy it"] * 15
    other = ["Buy it"] * 15 + ["Buy it #now"] * 15
    found = {one.trait: one for one in separations(more, other, ["loss"] * 15 + ["win"] * 15)}
    assert not found["hashtags"].is_more_preferred


@pytest.mark.parametrize(
    "outcomes",
    [
        ["win"] * 200,  # one side wins whichever is longer, and is always the longer one
        ["win", "loss"] * 100,  # length and outcome have nothing to do with each other
        ["tie"] * 200,
        ["unscored"] * 200,
    ],
)
def test_outcomes_that_do_not_follow_length_are_not_separated(outcomes: list[str]) -> None:
    assert separations(posts([50, 50, 60, 60] * 50), posts([40, 40, 50, 50] * 50), outcomes) == []


def test_few_pairs_that_agree_by_chance_are_not_separated() -> None:
    difference, won = np.array([1.0, 1, 1, -1, -1]), np.array([True, True, True, False, False])
    assert separation("words", difference, won) is None
    assert separation("words", np.tile(difference, 4), np.tile(won, 4)) is not None


def test_texts_without_any_difference_are_not_separated() -> None:
    assert separations(["a"] * 100, ["a"] * 100, ["win", "loss"] * 50) == []
