"""Many cells from one loaded student: adapters, then predictions, then verdicts.

`planning` decides which cells a run completes.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from synthpost_dagster.artifacts.manifest import Outcome
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import ArtifactBusy, SynthpostError, UpstreamMissing
from synthpost_dagster.inference.models import loads
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.stages import adapters, predictions
from synthpost_dagster.stages.stage import BY_CELL, materialize, materialize_with, publish
from synthpost_dagster.stages.student import Student, holding
from synthpost_dagster.stages.study import Study
from synthpost_dagster.training.trainers import APART


@dataclass
class Filled:
    """Results of the trainings of a sweep; a training is a cell under one seed."""

    progress: Progress = field(repr=False)
    total: int
    made: int = 0
    reused: int = 0
    elsewhere: int = 0
    """Trainings that another process is making."""
    errors: dict[str, SynthpostError] = field(default_factory=dict)
    """Place of a training → why it failed."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Place of a training → what is missing."""
    tuned: int = 0
    model_loads: int = 0
    """Number of models that this process loaded for it: 1, or 0 where nothing had to be made."""

    @property
    def counts(self) -> dict[str, int]:
        """Trainings by result."""
        results = (self.made, self.reused, self.elsewhere, len(self.errors), len(self.skipped))
        return dict(zip(("made", "reused", "made by another run", "failed", "skipped"), results, strict=True))

    @property
    def text(self) -> str:
        """The counts in words."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "no cells"

    def add_tuned(self) -> None:
        """Counts an adapter that exists now."""
        self.tuned += 1
        self.progress.milestone("tuned", self.tuned, self.total, "adapters")

    def add(self, training: Cell, error: SynthpostError | None = None, *, may_skip: bool = False) -> None:
        """Counts a training as made, or by its error as failed or made elsewhere; as skipped where that is allowed and
        an upstream artifact is missing.
        """
        place = training.place
        if error is None:
            self.made += 1
        elif isinstance(error, ArtifactBusy):
            self.elsewhere += 1
        elif may_skip and isinstance(error, UpstreamMissing):
            self.skipped[place] = str(error)
            self.progress.within(place).note(f"skipped: {error}")
        else:
            self.errors[place] = error
            self.progress.within(place).note(f"failed: {error}")
        self.report()

    def report(self) -> None:
        """Reports the number of trainings that have a result."""
        self.progress.milestone("done", sum(self.counts.values()), self.total, "trainings")


Record = Callable[[str, Cell, Sequence[Outcome]], None]
"""Called with an asset, a cell and the cell's artifacts, one per seed, once they exist."""


def complete(
    study: Study, cells: Sequence[Cell], progress: Progress, record: Record, release: Callable[[], None]
) -> Filled:
    """Makes the missing artifacts of the cells, verdicts included, and records all artifacts of each complete cell.

    `release` is called when the student is no longer held; only then does this function wait for artifacts that
    another process is making. A cell that fails does not stop the others.
    """
    filled = fill(study, cells, progress)
    release()
    for cell in cells:
        places = [seed.place for seed in study.seeds_of(cell)]
        if any(place in filled.errors or place in filled.skipped for place in places):
            continue
        try:
            for asset in BY_CELL:
                record(asset, cell, [materialize(study, asset, place, progress.within(place)) for place in places])
        except SynthpostError as error:
            filled.errors[cell.key] = error
    return filled


def fill(study: Study, cells: Sequence[Cell], progress: Progress) -> Filled:
    """Makes the missing adapters and predictions of the cells, under every seed, from one loaded student.

    All adapters are tuned first; then the posts of all are written together. It does not wait for artifacts that
    another process is making: that process may be waiting for the device that this one holds. A training that fails
    does not stop the others. A cell whose subset does not exist is skipped.
    """
    trainings = [training for cell in cells for training in study.seeds_of(cell)]
    filled, loads_before, missing = Filled(progress, len(trainings)), loads.made, []
    for training in trainings:
        if study.resolver.has("predictions", training.place):
            filled.reused += 1
            filled.report()
        else:
            missing.append(training)
    untuned = [training for training in missing if not study.resolver.has("adapters", training.place)]
    with holding(study, progress, sum(adapters.steps_of(study, training) for training in untuned)) as student:
        tune = _tune_apart if study.profile.training.trainer in APART else _tune
        _write(study, tune(study, missing, student, filled), student, filled)
    filled.model_loads = loads.made - loads_before
    return filled


def _tune(study: Study, trainings: Sequence[Cell], student: Student, filled: Filled) -> list[Cell]:
    """The trainings whose adapter exists now."""
    ready = []
    for training in trainings:
        try:
            within = filled.progress.within(training.place)
            materialize_with(student, study, "adapters", training.place, within, wait=False)
        except SynthpostError as error:
            filled.add(training, error, may_skip=True)
        else:
            filled.add_tuned()
            ready.append(training)
    return ready


def _tune_apart(study: Study, trainings: Sequence[Cell], _student: Student, filled: Filled) -> list[Cell]:
    """As `_tune`, with a trainer that needs a process of its own."""
    failure: SynthpostError = ArtifactBusy()
    try:
        adapters.tune_apart(study, trainings, filled.progress, wait=False)
    except SynthpostError as error:
        failure = error
    ready = []
    for training in trainings:
        if study.resolver.has("adapters", training.place):
            filled.add_tuned()
            ready.append(training)
        else:
            filled.add(training, failure)
    return ready


def _write(study: Study, trainings: Sequence[Cell], student: Student, filled: Filled) -> None:
    """Writes the posts of all trainings together; each training's are published as soon as they are complete."""
    with contextlib.ExitStack() as stack:
        ready = {}
        for training in trainings:
            try:
                inputs = study.resolver.inputs("predictions", training.place)
                folder = stack.enter_context(study.store.local_folder(inputs.adapter))
                ready[training] = predictions.TunedStudent(inputs, folder)
            except SynthpostError as error:
                filled.add(training, error)
        try:
            tuned = list(ready.values())
            for inputs, posts in predictions.tuned_posts(tuned, student, study.store, filled.progress):
                _publish(study, inputs, posts, student, filled)
                del ready[inputs.cell]
        except SynthpostError as error:
            for training in ready:
                filled.add(training, error)


def _publish(
    study: Study, inputs: predictions.PredictionsInputs, posts: predictions.Posts, student: Student, filled: Filled
) -> None:
    make, place = partial(predictions.add_posts, posts=posts), inputs.cell.place
    try:
        publish(student, study, "predictions", place, inputs, make, filled.progress, wait=False)
    except ArtifactBusy as error:
        filled.add(inputs.cell, error)
    else:
        filled.add(inputs.cell)
