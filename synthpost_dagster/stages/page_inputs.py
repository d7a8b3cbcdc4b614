"""The inputs of the report's page as one record: its hash is the report's fingerprint, and the page sees nothing else.

Only manifests are read here. `report` and `data_quality` read the tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.cell import Cell
from synthpost_dagster.errors import SynthpostError, UpstreamMissing
from synthpost_dagster.judging.people import read_labels
from synthpost_dagster.profiles import Profile
from synthpost_dagster.stages.facts import RowsFacts
from synthpost_dagster.stages.stage import BASELINE, CONTROL
from synthpost_dagster.stages.study import Study
from synthpost_dagster.tasks.task import Task

REPORT_FORMAT = 10
"""Increased when the page or its tables change, so that reports are made again."""
LABELS = "labels.csv"
"""People's choices, in the home."""
SHOWN: dict[str, Any] = {
    **dict.fromkeys(("name", "study", "evaluation_prompts", "judges"), True),
    "student": {"model"},
    "teacher": {"backend", "endpoint", "model", "prices"},
    "training": {"seed"},
}
"""Keys of the profile that the page depends on."""
NOT_SHOWN = {"system_prompt", "sweep", "evaluation", "quality"}
"""Keys of task.yaml that the page does not read, except `quality.max_perplexity_ratio`."""


class Made(NamedTuple):
    """The artifacts of a cell under one seed."""

    cell: Cell
    adapter: Manifest
    predictions: Manifest
    verdicts: Manifest


@dataclass(frozen=True, slots=True)
class PageInputs:
    """Everything that the page and its tables depend on. Manifests are hashed whole: facts and gates are shown too.

    Artifacts of cells are by cell and seed. A missing artifact is None.
    """

    format: int
    task: Task
    profile: Profile
    """`SHOWN` are the keys that the page depends on."""
    evaluation_count: int
    labels: dict[str, str]
    prompts: Manifest | None
    evaluation_prompts: Manifest | None
    rows: Manifest | None
    earlier_rows: tuple[Manifest, ...]
    timed_rows: Manifest | None
    """Rows with the time of replies: the present ones, or if they sent no request, the newest that did."""
    subsets: dict[int, Manifest]
    untuned: Manifest | None
    samples: Manifest | None
    adapters: dict[Cell, Manifest]
    predictions: dict[Cell, Manifest]
    verdicts: dict[Cell, Manifest]
    missing: tuple[tuple[str, str], ...]
    """(place, reason) of cells without verdicts."""
    controls: Manifest | None
    missing_controls: str
    """Why there are no controls, else empty."""

    @property
    def parts(self) -> dict[str, Any]:
        """Every field as JSON."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @property
    def made(self) -> list[Made]:
        """The artifacts of the cells that have verdicts."""
        return [
            Made(cell, self.adapters[cell], self.predictions[cell], verdicts)
            for cell, verdicts in self.verdicts.items()
        ]

    def seed_of(self, cell: Cell) -> int:
        """The training seed of a cell."""
        return self.profile.training.seed if cell.seed is None else cell.seed


def page_inputs(study: Study) -> PageInputs:
    """The page's current inputs. They include artifacts whose gates failed, except verdicts."""
    found = partial(_found, study)
    adapters = _there({cell: found("adapters", cell.place) for cell in study.trainings})
    predictions = _there({cell: found("predictions", cell.place) for cell in study.trainings})
    judged = {cell: _needed(study, "verdicts", cell.place) for cell in study.trainings}
    verdicts = {cell: manifest for cell, (manifest, _) in judged.items() if manifest}
    missing = [(cell.place, why) for cell, (manifest, why) in judged.items() if not manifest]
    for cell in [cell for cell in verdicts if cell not in adapters or cell not in predictions]:
        del verdicts[cell]
        missing.append((cell.place, "its adapter or its predictions are damaged; the next run makes them again"))
    controls, missing_controls = _needed(study, "control_verdicts")
    rows, _ = _needed(study, "synthetic_rows")
    labels = study.settings.home / LABELS
    sizes = dict.fromkeys(cell.data_size for cell in study.cells)
    return PageInputs(
        format=REPORT_FORMAT,
        task=study.task,
        profile=study.profile,
        evaluation_count=study.evaluation_count,
        labels=read_labels(labels) if labels.is_file() else {},
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


def required(manifest: Manifest | None, asset: str) -> Manifest:
    """The manifest. Raises UpstreamMissing where it is None."""
    if manifest is None:
        raise UpstreamMissing(f"{asset} does not exist for this task and profile yet; use `synthpost run`")
    return manifest


def _needed(study: Study, asset: str, partition: str = "") -> tuple[Manifest | None, str]:
    """The artifact, or None and the reason why nothing may be built on it."""
    try:
        return study.checked(study.resolver.need(asset, partition)), ""
    except SynthpostError as error:
        return None, str(error)


def _found(study: Study, asset: str, partition: str = "") -> Manifest | None:
    """The artifact, even if it failed its gates; None where it or its inputs are missing or damaged."""
    try:
        manifest = study.resolver.find(asset, partition)
        return study.checked(manifest) if manifest else None
    except SynthpostError:
        return None


def _earlier(study: Study, rows: Manifest | None) -> tuple[Manifest, ...]:
    """Other tables of synthetic rows of the same task, newest first."""
    if rows is None:
        return ()
    found = [
        manifest
        for manifest in study.resolver.all_of("synthetic_rows")
        if manifest.parts.get("task") == rows.parts.get("task") and manifest.digest != rows.digest
    ]
    return tuple(reversed(found))


def _timed(study: Study, rows: Manifest | None) -> Manifest | None:
    """The newest rows of the present teacher that sent a request, so that the time of replies is known."""
    if rows is None or RowsFacts.of(rows).asked_now:
        return rows
    found, teacher = study.resolver.all_of("synthetic_rows"), rows.parts.get("teacher")
    same_teacher = [one for one in found if one.parts.get("teacher") == teacher]
    return next((one for one in reversed(same_teacher) if RowsFacts.of(one).asked_now), None)


def _there(found: Mapping[Any, Manifest | None]) -> dict[Any, Manifest]:
    return {key: manifest for key, manifest in found.items() if manifest is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Manifest):
        return value.self_digest or fingerprint(value.model_dump(mode="json"))
    if isinstance(value, Task):
        shown = value.spec.model_dump(mode="json", exclude=NOT_SHOWN)
        limit = value.spec.quality.max_perplexity_ratio
        return fingerprint({"spec": shown, "catalog": value.catalog, "max_perplexity_ratio": limit})
    if isinstance(value, Profile):
        return fingerprint(value.model_dump(mode="json", include=SHOWN))
    if isinstance(value, Cell):
        return value.place
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(one) for key, one in value.items()}
    return value
