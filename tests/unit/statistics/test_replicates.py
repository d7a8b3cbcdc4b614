"""Cells that are repeats of one experiment."""

from __future__ import annotations

from synthpost_dagster.statistics.replicates import Trained, replicate_groups


def test_studys_sweep_at_8_rows_a_step() -> None:
    sizes = (88, 176, 1760, 8800, 17_600)
    cells = [Trained(size, steps, min(size, steps * 8)) for steps in (50, 150) for size in sizes]
    # 50 steps see 400 rows, 150 steps 1,200: all of the two small subsets, a part of the three large ones.
    assert replicate_groups(cells) == [0, 0, 1, 1, 1, 0, 0, 2, 2, 2]


def test_cell_that_sees_just_its_whole_subset_is_no_replicate() -> None:
    assert replicate_groups([Trained(400, 50, 400), Trained(1760, 50, 400), Trained(8800, 50, 400)]) == [0, 1, 1]


def test_single_cell_is_no_replicate() -> None:
    assert replicate_groups([Trained(1760, 50, 400), Trained(1760, 150, 1200)]) == [0, 0]
    assert replicate_groups([]) == []


def test_groups_are_numbered_by_steps_and_found_in_any_order() -> None:
    cells = [Trained(1760, 150, 1200), Trained(1760, 50, 400), Trained(8800, 150, 1200), Trained(8800, 50, 400)]
    assert replicate_groups(cells) == [2, 1, 2, 1]
