"""The gain of more data or training: each cell of a sweep against the next larger one."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from synthpost_dagster.statistics.paired import Difference, win_rate_difference
from synthpost_dagster.statistics.ratio import CONFIDENCE, simultaneous_confidence
from synthpost_dagster.statistics.replicates import Trained, replicate_groups

Axis = Literal["data", "training"]
Finding = Literal["gain", "loss", "not enough evidence", "replicates"]
"""replicates: both cells saw the same number of rows for the same number of steps."""


class SurfaceCell(NamedTuple):
    """A judged cell, against one baseline."""

    trained: Trained
    outcomes: Mapping[str, str]
    """Prompt id → pair outcome."""


class Step(NamedTuple):
    """The change of the win rate from one cell to the next larger one along an axis."""

    axis: Axis
    smaller: SurfaceCell
    larger: SurfaceCell
    difference: Difference
    """Win rate of the larger cell minus that of the smaller, on the same prompts."""
    finding: Finding


def worth_of_steps(
    cells: Sequence[SurfaceCell], generator: np.random.Generator, confidence: float = CONFIDENCE
) -> list[Step]:
    """Every step of the surface, data first: between cells of equal optimizer steps, then between cells of equal data
    size, each to the next larger cell.

    An epoch of more data changes both, so it is no step. Of cells with the same data size and steps only the first is
    used. A step is a gain or a loss where its interval excludes 0. The intervals are simultaneous over all steps except
    those between replicates (Šidák): of twenty steps without an effect, one would otherwise often look like one.
    """
    surface = {(cell.trained.data_size, cell.trained.optimizer_steps): cell for cell in reversed(cells)}
    groups = dict(zip(surface, replicate_groups([cell.trained for cell in surface.values()]), strict=True))
    by_steps = sorted(surface, key=lambda place: (place[1], place[0]))
    steps: list[tuple[Axis, tuple[int, int], tuple[int, int]]] = []
    steps += [("data", one, other) for one, other in pairwise(by_steps) if one[1] == other[1]]
    steps += [("training", one, other) for one, other in pairwise(sorted(surface)) if one[0] == other[0]]
    replicates = {(one, other) for _, one, other in steps if 0 < groups[one] == groups[other]}
    each = simultaneous_confidence(confidence, max(1, len(steps) - len(replicates)))
    found = []
    for axis, one, other in steps:
        difference = win_rate_difference(surface[other].outcomes, surface[one].outcomes, generator, each)
        finding: Finding = "not enough evidence"
        if (one, other) in replicates:
            finding = "replicates"
        elif difference.excludes_zero:
            finding = "gain" if difference.low > 0 else "loss"
        found.append(Step(axis, surface[one], surface[other], difference, finding))
    return found
