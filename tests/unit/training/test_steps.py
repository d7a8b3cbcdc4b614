"""Optimizer steps of a cell, and the rows that it sees."""

from __future__ import annotations

import pytest

from synthpost_dagster.training.fitting import optimizer_steps, rows_seen


@pytest.mark.parametrize(
    ("steps", "rows", "done"),
    [
        ("1-epoch", 88, 11),
        ("1-epoch", 176, 22),
        ("1-epoch", 1_760, 220),
        ("1-epoch", 8_800, 1_100),
        ("1-epoch", 17_600, 2_200),
        ("5-epoch", 176, 110),
        ("12-epoch", 88, 132),
        ("50", 88, 50),
        ("50", 17_600, 50),
        ("150", 88, 150),
        ("1-epoch", 17_593, 2_200),  # the last batch is short
        ("1-epoch", 3, 1),
        ("3-epoch", 9, 6),
    ],
)
def test_optimizer_steps_of_a_cell_at_8_rows_per_step(steps: str, rows: int, done: int) -> None:
    assert optimizer_steps(steps, rows, 8) == done


@pytest.mark.parametrize(
    ("steps", "rows", "seen"),
    [(50, 88, 88), (11, 88, 88), (50, 17_600, 400), (150, 17_600, 1_200), (2_200, 17_600, 17_600), (1, 3, 3)],
)
def test_rows_seen_are_limited_by_steps_and_by_rows(steps: int, rows: int, seen: int) -> None:
    assert rows_seen(steps, rows, 8) == seen
