"""Many cells from one loaded student: adapters, then predictions, then verdicts.

Which cells a run completes is decided in `planning`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from synthpost_dagster.artifacts.manifest import Outcome
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SynthpostError, UpstreamMissing
from synthpost_dagster.inference.models import loads
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.stages import adapters, predictions
from synthpost_dagster.stages.stage import BY_CELL, materialize, materialize_unless_busy, publish
from synthpost_dagster.stages.student import Student, holding
from synthpost_dagster.stages.study import Study
from synthpost_dagster.training.trainers import APART

Fate = Literal["made", "reused", "left", "failed", "skipped"]


@dataclass(frozen=True)
class Filled:
    """What became of the trainings (a cell under one seed): how many were made, were there before, or are left to
    another process that is making them; why the others failed or were skipped, by their place.
    """

    made: int
    reused: int
    left: int
    errors: dict[str, SynthpostError]
    skipped: dict[str, str]
    model_loads: int = 0
    """How often this process loaded a model for it: once, or not at all where nothing was to be made."""

    @property
    def failed(self) -> dict[str, str]:
        """Why trainings failed, by their place."""
        return {place: str(error) for place, error in self.errors.items()}

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


Record = Callable[[str, Cell, Sequence[Outcome]], None]
"""Called with an asset, a cell and the cell's artifacts, one per seed, once they exist."""


def complete(
    study: Study, cells: Sequence[Cell], progress: Progress, record: Record, filled_up: Callable[[], None]
) -> Filled:
    """Makes what the cells lack, verdicts included, and records every artifact of every complete cell.

    `filled_up` is called when the student is no longer held; only then does it wait for what another process is
    making. A cell that fails does not stop the others.
    """
    filled = fill(study, cells, progress)
    filled_up()
    errors = dict(filled.errors)
    for cell in cells:
        places = [seed.place for seed in study.seeds_of(cell)]
        if any(place in errors or place in filled.skipped for place in places):
            continue
        try:
            for asset in BY_CELL:
                record(asset, cell, [materialize(study, asset, place, progress.within(place)) for place in places])
        except SynthpostError as error:
            errors[cell.key] = error
    return replace(filled, errors=errors)


def fill(study: Study, cells: Sequence[Cell], progress: Progress) -> Filled:
    """Makes the adapters and predictions that the cells lack, under every seed, from one loaded student.

    All adapters are tuned first; then the posts of all are written together. What another process is making right now
    is left to it: waiting for it while holding the device, which that process may wait for, would never end. A training
    that fails does not stop the others. A cell whose subset does not exist is skipped.
    """
    trainings = [training for cell in cells for training in study.seeds_of(cell)]
    told, loads_before = _Told(progress, len(trainings)), loads.made
    lacking = []
    for training in trainings:
        if study.resolver.has("predictions", training.place):
            told.add(training, "reused")
        else:
            lacking.append(training)
    with holding(study, progress, _steps_of(study, lacking)) as student:
        tuned = _tuned_apart if study.profile.training.trainer in APART else _tuned
        _write(study, tuned(study, lacking, student, told, progress), student, told, progress)
    return replace(told.filled, model_loads=loads.made - loads_before)


def _tuned_apart(
    study: Study, trainings: Sequence[Cell], student: Student, told: _Told, progress: Progress
) -> list[Cell]:
    """As `_tuned`, with a trainer that needs a process of its own."""
    del student
    failure: SynthpostError | None = None
    ready = []
    try:
        adapters.tune_apart(study, trainings, progress, wait=False)
    except SynthpostError as error:
        failure = error
    for training in trainings:
        if study.resolver.has("adapters", training.place):
            told.tuned()
            ready.append(training)
        else:
            told.add(training, "failed" if failure else "left", failure)
    return ready


def _steps_of(study: Study, trainings: Sequence[Cell]) -> int:
    """Optimizer steps of the adapters that do not exist."""
    missing = [one for one in trainings if not study.resolver.has("adapters", one.place)]
    return sum(adapters.steps_of(study, training) for training in missing)


def _tuned(study: Study, trainings: Sequence[Cell], student: Student, told: _Told, progress: Progress) -> list[Cell]:
    """Those of the trainings whose adapter is there now."""
    ready = []
    for training in trainings:
        try:
            within = progress.within(training.place)
            outcome = materialize_unless_busy(student, study, "adapters", training.place, within)
        except UpstreamMissing as error:
            told.add(training, "skipped", error)
        except SynthpostError as error:
            told.add(training, "failed", error)
        else:
            if outcome is None:
                told.add(training, "left")
            else:
                told.tuned()
                ready.append(training)
    return ready


def _write(study: Study, trainings: Sequence[Cell], student: Student, told: _Told, progress: Progress) -> None:
    """The posts of the trainings, published as each training's are there."""
    with contextlib.ExitStack() as stack:
        ready = []
        for training in trainings:
            try:
                inputs = study.resolver.inputs("predictions", training.place)
                folder = stack.enter_context(study.store.local_folder(inputs.adapter))
                ready.append(predictions.TunedStudent(inputs, folder))
            except SynthpostError as error:
                told.add(training, "failed", error)
        _write_from(study, ready, student, told, progress)


def _write_from(
    study: Study, ready: Sequence[predictions.TunedStudent], student: Student, told: _Told, progress: Progress
) -> None:
    left = [one.inputs.cell for one in ready]
    try:
        for inputs, posts in predictions.tuned_posts(ready, student, study.store, progress):
            make, training = partial(predictions.add_posts, posts=posts), inputs.cell
            outcome = publish(student, study, "predictions", training.place, inputs, make, progress, wait=False)
            told.add(training, "left" if outcome is None else "made")
            left.remove(training)
    except SynthpostError as error:
        for training in left:
            told.add(training, "failed", error)


class _Told:
    """Puts down what became of each training, and tells of it."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total = progress, total
        self._fates: Counter[Fate] = Counter()
        self._tuned = 0
        self._errors: dict[Fate, dict[str, SynthpostError]] = {"failed": {}, "skipped": {}}

    def tuned(self) -> None:
        """Another adapter is there."""
        self._tuned += 1
        self._progress.milestone("tuned", self._tuned, self._total, "adapters")

    def add(self, training: Cell, fate: Fate, error: SynthpostError | None = None) -> None:
        """Another training is done with."""
        self._fates[fate] += 1
        if error:
            self._errors[fate][training.place] = error
            self._progress.within(training.place).note(f"{fate}: {error}")
        self._progress.milestone("done", self._fates.total(), self._total, "trainings")

    @property
    def filled(self) -> Filled:
        """What became of all."""
        fates, skipped = self._fates, {place: str(error) for place, error in self._errors["skipped"].items()}
        return Filled(fates["made"], fates["reused"], fates["left"], self._errors["failed"], skipped)
