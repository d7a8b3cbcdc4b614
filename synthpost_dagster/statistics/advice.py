"""The gain of more data or training: each cell of a sweep against the next larger one."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from synthpost_dagster.statistics.paired import Difference, win_rate_difference
from synthpost_dagster.statistics.ratio import CONFIDENCE, Counts, count, simultaneous_confidence
from synthpost_dagster.statistics.replicates import Trained, replicate_groups

Axis = Literal["data", "training"]
Finding = Literal["gain", "loss", "not enough evidence", "replicates"]
"""replicates: both cells saw the same number of rows for the same number of steps."""


class SurfaceCell(NamedTuple):
    """A judged cell, against one baseline."""

    trained: Trained
    outcomes: Mapping[str, str]
    """Prompt id → pair outcome."""

    @property
    def counts(self) -> Counts:
        """W, L, T and X."""
        return count(self.outcomes.values())


class Step(NamedTuple):
    """The change of the win rate from one cell to the next larger one along an axis."""

    axis: Axis
    smaller: SurfaceCell
    larger: SurfaceCell
    difference: Difference
    """Win rate of the larger cell minus that of the smaller, on the same prompts."""
    finding: Finding


class _Place(NamedTuple):
    """A cell's coordinates on the surface."""

    data_size: int
    optimizer_steps: int


class _Move(NamedTuple):
    """A step before its difference is computed."""

    axis: Axis
    smaller: SurfaceCell
    larger: SurfaceCell
    is_replicate: bool


def worth_of_steps(
    cells: Sequence[SurfaceCell], generator: np.random.Generator, confidence: float = CONFIDENCE
) -> list[Step]:
    """Every step of the surface, data first: between cells of equal optimizer steps, then between cells of equal data
    size, each to the next larger cell.

    An epoch of more data changes both, so it is no step. Of cells with the same data size and steps only the first is
    used. A step is a gain or a loss where its interval excludes 0. The intervals are simultaneous over all steps except
    those between replicates (Šidák): of twenty steps without an effect, one would otherwise often look like one.
    """
    moves = _moves(cells)
    each = simultaneous_confidence(confidence, max(1, sum(not move.is_replicate for move in moves)))
    return [_step(move, generator, each) for move in moves]


def _moves(cells: Sequence[SurfaceCell]) -> list[_Move]:
    surface = {_place(cell): cell for cell in reversed(cells)}
    groups = dict(zip(surface, replicate_groups([cell.trained for cell in surface.values()]), strict=True))
    along_data = pairwise(sorted(surface, key=lambda place: (place.optimizer_steps, place.data_size)))
    along_training = pairwise(sorted(surface))
    found: list[tuple[Axis, _Place, _Place]] = []
    found += [("data", one, next_) for one, next_ in along_data if one.optimizer_steps == next_.optimizer_steps]
    found += [("training", one, next_) for one, next_ in along_training if one.data_size == next_.data_size]
    return [
        _Move(axis, surface[one], surface[next_], is_replicate=0 < groups[one] == groups[next_])
        for axis, one, next_ in found
    ]


def _place(cell: SurfaceCell) -> _Place:
    return _Place(cell.trained.data_size, cell.trained.optimizer_steps)


def _step(move: _Move, generator: np.random.Generator, confidence: float) -> Step:
    difference = win_rate_difference(move.larger.outcomes, move.smaller.outcomes, generator, confidence)
    finding: Finding = "not enough evidence"
    if move.is_replicate:
        finding = "replicates"
    elif difference.excludes_zero:
        finding = "gain" if difference.low > 0 else "loss"
    return Step(move.axis, move.smaller, move.larger, difference, finding)
