"""Weak levels are named where chance does not explain them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from synthpost_dagster.statistics import corners
from synthpost_dagster.statistics.corners import weak_corners
from synthpost_dagster.statistics.ratio import Counts


def counts(wins: int, losses: int) -> Counts:
    return Counts(wins, losses, 0, 0)


def test_level_that_loses_is_named_with_fishers_p() -> None:
    levels = {("tone", "Calm"): counts(1, 9), ("tone", "Witty"): counts(9, 1)}
    (corner,) = weak_corners(levels)
    assert (corner.factor, corner.level, corner.others) == ("tone", "Calm", counts(9, 1))
    # P(at most 1 of 10 wins are among these 10 of 20) = (C(10,0)C(10,10) + C(10,1)C(10,9)) / C(20,10), twice by Holm.
    assert corner.p_value == pytest.approx(2 * 101 / 184_756)


def test_lowest_p_value_comes_first() -> None:
    levels = {("tone", name): counts(*won) for name, won in {"a": (5, 25), "b": (1, 29), "c": (90, 10)}.items()}
    assert [corner.level for corner in weak_corners(levels)] == ["b", "a"]


def test_no_level_is_named_without_a_difference() -> None:
    assert weak_corners({("tone", "a"): counts(30, 10), ("tone", "b"): counts(30, 10)}) == []
    assert weak_corners({("tone", "a"): Counts(0, 0, 5, 1), ("tone", "b"): Counts(0, 0, 3, 0)}) == []
    assert weak_corners({("tone", "only"): counts(1, 30)}) == []
    assert weak_corners({}) == []


def test_chance_names_one_of_forty_levels_in_at_most_five_percent() -> None:
    random = np.random.default_rng(5)
    named = 0
    for _ in range(400):
        wins = random.binomial(11, 0.8, size=40)
        named += bool(weak_corners({("company", str(place)): counts(w, 11 - w) for place, w in enumerate(wins)}))
    assert named / 400 <= 0.07


def test_large_counts_have_the_same_p_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = {("tone", "a"): counts(10, 30), ("tone", "b"): counts(35, 25)}
    (exact,) = weak_corners(levels)
    monkeypatch.setattr(corners, "MAX_EXACT", 10)
    (summed,) = weak_corners(levels)
    assert summed.p_value == pytest.approx(exact.p_value, rel=1e-9)


def test_million_comparisons_are_tested_in_seconds() -> None:
    levels = {("tone", str(place)): counts(80_000 + 100 * place, 20_000) for place in range(10)}
    started = time.process_time()
    weak_corners(levels)
    assert time.process_time() - started < 10
