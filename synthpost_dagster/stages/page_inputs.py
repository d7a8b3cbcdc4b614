"""What the report's page is made of, as one record: its fingerprint is the report's, and the page sees nothing else.

Gathering it reads manifests alone. What is made of it is in `report` and `data_quality`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SynthpostError, UpstreamMissing
from synthpost_dagster.judging.judges import Rubric
from synthpost_dagster.judging.people import read_labels
from synthpost_dagster.profiles import Profile
from synthpost_dagster.profiles.families import family_of
from synthpost_dagster.profiles.models import HostedChat, Prices
from synthpost_dagster.stages.facts import RowsFacts
from synthpost_dagster.stages.stage import BASELINE, CONTROL
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.synthetic_rows import teacher_of
from synthpost_dagster.tasks.task import Task

REPORT_FORMAT = 9
"""Raised when the page or its tables change, so that reports are made again."""
LABELS = "labels.csv"
"""People's choices, in the home."""
NOT_SHOWN = {"system_prompt", "sweep", "evaluation", "quality"}
"""Keys of task.yaml that the page does not read; what follows from them is in the artifacts and in the other fields
of `PageInputs`.
"""


class Judging(NamedTuple):
    """A judge by its name and the family of its model."""

    name: str
    family: str


class Made(NamedTuple):
    """What a cell under one seed is made of, and where."""

    cell: Cell
    adapter: Manifest
    predictions: Manifest
    verdicts: Manifest


@dataclass(frozen=True, slots=True)
class PageInputs:
    """All that shapes the page and its tables. Manifests count by their own digest: facts and gates are shown too.

    Those of cells are by cell and seed. None is what does not exist.
    """

    format: int
    task: Task
    profile: Profile
    """Shown by its name; of the rest, the judges' settings explain what could not be scored."""
    student: str
    student_family: str
    teacher: str
    teacher_family: str
    prices: Prices | None
    """Of the teacher, where it is hosted."""
    judges: tuple[Judging, ...]
    is_rubric_alone: bool
    """Whether no judge is a model."""
    is_study_mode: bool
    are_both_orders: bool
    evaluation_count: int
    seed: int
    """The profile's; a cell without one was trained under it."""
    max_perplexity_ratio: float
    labels: dict[str, str]
    prompts: Manifest | None
    evaluation_prompts: Manifest | None
    rows: Manifest | None
    earlier_rows: tuple[Manifest, ...]
    timed_rows: Manifest | None
    """Rows that say how long replies took: the present ones, or where these asked nothing, the newest that did."""
    subsets: dict[int, Manifest]
    untuned: Manifest | None
    samples: Manifest | None
    adapters: dict[Cell, Manifest]
    predictions: dict[Cell, Manifest]
    verdicts: dict[Cell, Manifest]
    missing: tuple[tuple[str, str], ...]
    """Places that have no verdicts, with the reason."""
    controls: Manifest | None
    missing_controls: str
    """Why the controls are not there, else empty."""

    @property
    def parts(self) -> dict[str, Any]:
        """Every field, for the plan of the report."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @property
    def made(self) -> list[Made]:
        """What the cells with verdicts are made of."""
        return [
            Made(cell, self.adapters[cell], self.predictions[cell], verdicts)
            for cell, verdicts in self.verdicts.items()
        ]

    def seed_of(self, cell: Cell) -> int:
        """The seed that a cell was trained under."""
        return self.seed if cell.seed is None else cell.seed


def page_inputs(study: Study) -> PageInputs:
    """What the page would be made of now. Artifacts whose gates failed are among it, but for those of verdicts."""
    profile, found = study.profile, partial(_found, study)
    adapters = _there({cell: found("adapters", cell.place) for cell in study.trainings})
    predictions = _there({cell: found("predictions", cell.place) for cell in study.trainings})
    verdicts, missing = _verdicts(study)
    for cell in [cell for cell in verdicts if cell not in adapters or cell not in predictions]:
        del verdicts[cell]
        missing.append((cell.place, "its adapter or its predictions are damaged; the next run makes them again"))
    controls, missing_controls = _needed(study, "control_verdicts")
    teacher = profile.teacher
    rows = _rows(study)
    sizes = dict.fromkeys(cell.data_size for cell in study.cells)
    return PageInputs(
        format=REPORT_FORMAT,
        task=study.task,
        profile=profile,
        student=profile.student.model,
        student_family=family_of(profile.student),
        teacher=teacher_of(study).name,
        teacher_family=family_of(teacher),
        prices=teacher.prices if isinstance(teacher, HostedChat) else None,
        judges=tuple(
            Judging(judge.name, family_of(spec)) for judge, spec in zip(study.judges, profile.judges, strict=True)
        ),
        is_rubric_alone=all(isinstance(judge, Rubric) for judge in study.judges),
        is_study_mode=profile.study,
        are_both_orders=len(study.rules.orders) > 1,
        evaluation_count=study.evaluation_count,
        seed=profile.training.seed,
        max_perplexity_ratio=study.task.spec.quality.max_perplexity_ratio,
        labels=labels_of(study),
        prompts=found("prompts"),
        evaluation_prompts=found("evaluation_prompts"),
        rows=rows,
        earlier_rows=_earlier(study, rows),
        timed_rows=_timed(study, rows),
        subsets=_there({size: found("data_subsets", str(size)) for size in sizes}),
        untuned=found(BASELINE),
        samples=found(CONTROL),
        adapters=adapters,
        predictions=predictions,
        verdicts=verdicts,
        missing=tuple(missing),
        controls=controls,
        missing_controls=missing_controls,
    )


def labels_of(study: Study) -> dict[str, str]:
    """People's labels in the home, by pair."""
    file = study.settings.home / LABELS
    return read_labels(file) if file.is_file() else {}


def required(manifest: Manifest | None, asset: str) -> Manifest:
    """The manifest. Raises UpstreamMissing where it is None."""
    if manifest is None:
        raise UpstreamMissing(f"{asset} does not exist for this task and profile yet; use `synthpost run`")
    return manifest


def _verdicts(study: Study) -> tuple[dict[Cell, Manifest], list[tuple[str, str]]]:
    """The verdicts of each cell and seed of the profile, and those that are not there, with the reason."""
    verdicts: dict[Cell, Manifest] = {}
    missing: list[tuple[str, str]] = []
    for cell in study.trainings:
        manifest, why = _needed(study, "verdicts", cell.place)
        if manifest is None:
            missing.append((cell.place, why))
        else:
            verdicts[cell] = manifest
    return verdicts, missing


def _needed(study: Study, asset: str, partition: str = "") -> tuple[Manifest | None, str]:
    """The artifact, or why nothing may be built on it."""
    try:
        return study.checked(study.resolver.need(asset, partition)), ""
    except SynthpostError as error:
        return None, str(error)


def _found(study: Study, asset: str, partition: str = "") -> Manifest | None:
    """The artifact, whatever its gates say; None where it or its inputs do not exist, or where it is damaged."""
    try:
        manifest = study.resolver.find(asset, partition)
        return study.checked(manifest) if manifest else None
    except SynthpostError:
        return None


def _rows(study: Study) -> Manifest | None:
    return _needed(study, "synthetic_rows")[0]


def _earlier(study: Study, rows: Manifest | None) -> tuple[Manifest, ...]:
    """Tables of synthetic rows of the same task whose variety was measured, newest first, less the present one."""
    if rows is None:
        return ()
    found = [
        manifest
        for manifest in study.resolver.all_of("synthetic_rows")
        if manifest.parts.get("task") == rows.parts.get("task") and manifest.digest != rows.digest
    ]
    return tuple(reversed(found))


def _timed(study: Study, rows: Manifest | None) -> Manifest | None:
    """The rows whose replies were asked for and not all found in the journal, by the teacher of the present rows."""
    if rows is None or RowsFacts.of(rows).asked_now:
        return rows
    found, teacher = study.resolver.all_of("synthetic_rows"), rows.parts.get("teacher")
    same_teacher = [one for one in found if one.parts.get("teacher") == teacher]
    return next((one for one in reversed(same_teacher) if RowsFacts.of(one).asked_now), None)


def _there(found: Mapping[Any, Manifest | None]) -> dict[Any, Manifest]:
    return {key: manifest for key, manifest in found.items() if manifest is not None}


def _plain(value: Any) -> Any:
    """A field as the fingerprint takes it."""
    if isinstance(value, Manifest):
        return value.self_digest or fingerprint(value.model_dump(mode="json"))
    if isinstance(value, Task):
        shown = value.spec.model_dump(mode="json", exclude=NOT_SHOWN)
        return fingerprint({"spec": shown, "catalog": value.catalog})
    if isinstance(value, Profile):
        return [value.name, fingerprint({"judges": value.judges})]
    if isinstance(value, Cell):
        return value.place
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(one) for key, one in value.items()}
    return value
