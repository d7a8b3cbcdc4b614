"""The stage that fills the artifacts of many cells: adapters and predictions, which each cell's own run then adopts.

A cell's own stages are in `models`. Which cells are to be filled is decided in `planning`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from synthpost_dagster.artifacts.store import ArtifactStore, Draft, Outcome, Plan
from synthpost_dagster.errors import SynthpostError, UpstreamMissing
from synthpost_dagster.progress import Progress
from synthpost_dagster.stages import models
from synthpost_dagster.stages.study import Cell, Study

Fate = Literal["made", "reused", "left", "failed", "skipped"]


@dataclass(frozen=True)
class Filled:
    """What became of the trainings (a cell under one seed): how many were made, were there before, or are left to
    another process that is making them; why the others failed or were skipped, by their place.
    """

    made: int
    reused: int
    left: int
    failed: dict[str, str]
    skipped: dict[str, str]

    @property
    def text(self) -> str:
        """The counts in words."""
        counts = {
            "made": self.made,
            "there before": self.reused,
            "left to another run": self.left,
            "failed": len(self.failed),
            "skipped": len(self.skipped),
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no cells"


def filling_work(study: Study, training: Cell) -> float:
    """A rough measure of what filling takes: rows trained and posts written."""
    rows = study.profile.training.rows_per_step * models.steps_of(study, training)
    return 0.6 * rows + study.evaluation_count


def fill(study: Study, cells: Sequence[Cell], progress: Progress) -> Filled:
    """Makes the adapters and predictions that the cells lack, under every seed.

    What another process is making right now is left to it: waiting for it while holding the device, which that process
    may wait for, would never end. A training that fails is noted and does not stop the others; its cell's own run will
    meet the error again and report it. A cell whose subset is not there is skipped.
    """
    filling = replace(study, store=_NotWaiting(study.store.root, study.store.home))
    trainings = [training for cell in cells for training in study.seeds_of(cell)]
    fates: Counter[Fate] = Counter()
    reasons: dict[Fate, dict[str, str]] = {"failed": {}, "skipped": {}}
    for done, training in enumerate(trainings, start=1):
        fate, reason = _fill_one(filling, training, progress.within(training.place))
        fates[fate] += 1
        if reason:
            reasons[fate][training.place] = reason
            progress.within(training.place).note(f"{fate}: {reason}")
        work = filling_work(study, training) if fate == "made" else 0.0
        progress.update("done", done, len(trainings), "trainings", work=work)
    return Filled(fates["made"], fates["reused"], fates["left"], reasons["failed"], reasons["skipped"])


def _fill_one(study: Study, training: Cell, progress: Progress) -> tuple[Fate, str]:
    """What became of one training, and the reason where it failed or was skipped."""
    try:
        outcomes = [models.adapters(study, training, progress), models.predictions(study, training, progress)]
    except _InTheMaking:
        return "left", ""
    except UpstreamMissing as error:
        return "skipped", str(error)
    except SynthpostError as error:
        return "failed", str(error)
    return "reused" if all(outcome.is_reused for outcome in outcomes) else "made", ""


class _InTheMaking(Exception):
    """Another process is making the artifact right now."""


class _NotWaiting(ArtifactStore):
    """The store as a filler uses it: raises where it would have to wait for another process."""

    def reuse_or_make(self, plan: Plan, make: Callable[[Draft], None], *, wait: bool = False) -> Outcome:
        outcome = super().reuse_or_make(plan, make, wait=wait)
        if outcome is None:
            raise _InTheMaking(plan.title)
        return outcome
