"""What another step of data or training is worth."""

from __future__ import annotations

import numpy as np
import pytest

from synthpost_dagster.statistics.advice import Step, SurfaceCell, worth_of_steps
from synthpost_dagster.statistics.ratio import Counts, count
from synthpost_dagster.statistics.replicates import Trained


def cell(data_size: int, steps: int, wins: int, prompts: int = 440) -> SurfaceCell:
    """At 8 rows a step; the first `wins` prompts are won, the others lost."""
    outcomes = {str(index): "win" if index < wins else "loss" for index in range(prompts)}
    return SurfaceCell(Trained(data_size, steps, min(data_size, steps * 8)), outcomes)


def worth(*cells: SurfaceCell) -> list[Step]:
    return worth_of_steps(cells, np.random.default_rng(0))


def moves(steps: list[Step]) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    return [(step.axis, step.smaller.trained[:2], step.larger.trained[:2]) for step in steps]


def test_each_cell_is_compared_with_the_next_larger_one_on_each_axis() -> None:
    found = worth(cell(176, 50, 300), cell(88, 150, 300), cell(88, 50, 300), cell(352, 50, 300), cell(88, 11, 300))
    assert moves(found) == [
        ("data", (88, 50), (176, 50)),
        ("data", (176, 50), (352, 50)),
        ("training", (88, 11), (88, 50)),
        ("training", (88, 50), (88, 150)),
    ]


def test_step_is_a_gain_a_loss_or_not_enough_evidence() -> None:
    found = worth(cell(88, 11, 220), cell(88, 50, 300), cell(88, 150, 302), cell(88, 440, 260))
    assert [step.finding for step in found] == ["gain", "not enough evidence", "loss"]
    # 300/440 - 220/440
    assert found[0].difference.value == pytest.approx(80 / 440)
    assert found[0].difference.low > 0
    assert found[1].difference.low < 0 < found[1].difference.high


def test_few_prompts_more_are_no_evidence() -> None:
    (step,) = worth(cell(88, 50, 10, prompts=20), cell(176, 50, 13, prompts=20))
    assert step.difference.value == pytest.approx(3 / 20)
    assert step.finding == "not enough evidence"


def test_step_between_replicates_is_never_a_gain() -> None:
    found = worth(cell(1760, 50, 220), cell(8800, 50, 300))
    assert [step.finding for step in found] == ["replicates"]
    assert found[0].difference.low > 0


def test_step_from_a_whole_subset_to_part_of_another_is_no_replicate() -> None:
    assert [step.finding for step in worth(cell(88, 50, 220), cell(1760, 50, 300))] == ["gain"]


def test_more_steps_need_more_evidence_and_replicates_do_not() -> None:
    border = [cell(88, 11, 220), cell(88, 50, 227)]
    assert [step.finding for step in worth(*border)] == ["gain"]
    replicates = [cell(size, 50, 300) for size in range(1000, 1040)]
    alone = next(step for step in worth(*border, *replicates) if step.axis == "training")
    others = [cell(1000 + index, steps, 300) for index in range(20) for steps in (200, 400)]
    among_many = next(step for step in worth(*border, *others) if step.smaller.trained[:2] == (88, 11))
    assert alone.finding == "gain"
    assert alone.difference.low > among_many.difference.low
    assert among_many.finding == "not enough evidence"


def test_first_of_cells_with_the_same_rows_and_steps_is_used() -> None:
    """400 rows for one epoch of 8 a step are 50 steps."""
    (step,) = worth(cell(400, 50, 220), cell(400, 50, 440), cell(400, 150, 300))
    assert count(step.smaller.outcomes.values()) == Counts(220, 220, 0, 0)


def test_one_cell_has_no_neighbour() -> None:
    assert worth(cell(88, 50, 300)) == []
    assert worth() == []
