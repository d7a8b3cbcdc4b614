"""Which runs to start next: the one decision that the command line loops over and the sensor yields.

`next_runs` is pure: it reads which artifacts exist, what Dagster has recorded, and which runs are in progress. An
artifact is current when it exists, its gates passed, and Dagster's latest record of it shows its manifest and is not
stale. A run that records an existing artifact again makes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from synthpost_dagster.artifacts.resolver import State
from synthpost_dagster.cell import Cell
from synthpost_dagster.llm.chat_models import HOLDS_DEVICE
from synthpost_dagster.stages import adapters, report
from synthpost_dagster.stages.stage import BY_CELL, STAGES, stage_of
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.synthetic_rows import ASSET as ROWS

Recorded = Callable[[str, str], str | None]
"""Asset and partition → the digest of the manifest that Dagster's latest record shows; None where there is none, or
Dagster calls it stale.
"""
UPSTREAM = tuple(asset for asset in STAGES if stage_of(asset).job == "upstream")


@dataclass(frozen=True, slots=True)
class Run:
    """A Dagster run: its job, its data size or cells, and whether it holds a model on the device."""

    job: str
    size: int | None = None
    cells: tuple[Cell, ...] = ()
    rows: int | None = None
    holds_model: bool = False

    @property
    def title(self) -> str:
        """The run for people."""
        if self.size is not None:
            return f"subset {self.size}"
        if not self.cells:
            return self.job
        return f"sweep ({len(self.cells)} cells)" if len(self.cells) > 1 else f"cell {self.cells[0].key}"

    def overlaps(self, other: Run) -> bool:
        """Whether both make an artifact in common."""
        if self.cells or other.cells:
            return bool(set(self.cells) & set(other.cells))
        return (self.job, self.size) == (other.job, other.size)


def next_runs(
    study: Study,
    recorded: Recorded,
    in_progress: Collection[Run] = (),
    failed: Collection[Run] = (),
    cells: Sequence[Cell] | None = None,
) -> list[Run]:
    """The runs to start now; none where everything is current, has failed, or waits for a run in progress.

    `cells` are the cells to bring up to date, by default all of the profile. A failed run is not started again; runs
    that do not depend on it are started.
    """
    study, cells = study.fresh(), study.cells if cells is None else cells

    def startable(*runs: Run) -> list[Run]:
        """Those that neither failed nor share an artifact with a run in progress."""
        return [run for run in runs if not any(run.overlaps(other) for other in (*in_progress, *failed))]

    def is_in_progress(*jobs: str) -> bool:
        return any(run.job in jobs for run in in_progress)

    sizes = sorted({cell.data_size for cell in cells})
    # Subsets are compared with the content of the rows, so this finds damaged rows, which the upstream makes again.
    stale_sizes = stale_subsets(study, recorded, sizes)
    if is_upstream_stale(study, recorded, sizes[-1]):
        return startable(Run("upstream", rows=sizes[-1], holds_model=True))
    if subsets := startable(*(Run("subsets", size=size) for size in stale_sizes)):
        return subsets
    if is_in_progress("subsets"):
        return []
    stale = stale_cells(study, recorded, [cell for cell in cells if cell.data_size not in stale_sizes])
    if free := [cell for cell in stale if startable(Run("sweep", cells=(cell,)))]:
        return [
            Run("sweep", cells=tuple(part), holds_model=bool(lacking(study, part)) or is_judge_in_process(study))
            for part in shared_out(study, free)
        ]
    if is_in_progress("sweep", "cell", "upstream"):
        return []
    controls = startable(Run("controls", holds_model=is_judge_in_process(study)))
    if controls and _has(study, "predictions") and are_controls_stale(study, recorded):
        return controls
    if is_in_progress("controls"):
        return []
    if _has(study, "verdicts") and is_report_stale(study, recorded):
        return startable(Run("report"))
    return []


def is_upstream_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    """Whether an asset of the job `upstream` is not current, or there are fewer than `rows` rows."""
    return any(_is_stale(study, asset, "", recorded) for asset in UPSTREAM) or are_rows_stale(study, recorded, rows)


def are_rows_stale(study: Study, recorded: Recorded, rows: int) -> bool:
    """Whether there are fewer than `rows` current rows."""
    return _is_stale(study, ROWS, "", recorded) or study.resolver.need(ROWS).parts["rows"] < rows


def stale_subsets(study: Study, recorded: Recorded, sizes: Iterable[int]) -> list[int]:
    """The data sizes whose subset is not current."""
    return [size for size in sizes if _is_stale(study, "data_subsets", str(size), recorded)]


def stale_cells(study: Study, recorded: Recorded, cells: Iterable[Cell]) -> list[Cell]:
    """The cells whose adapter, predictions or verdicts are not current, under any training seed."""
    return [cell for cell in cells if _is_cell_stale(study, recorded, cell)]


def are_controls_stale(study: Study, recorded: Recorded) -> bool:
    """Whether the controls are not current."""
    return _is_stale(study, "control_verdicts", "", recorded)


def is_report_stale(study: Study, recorded: Recorded) -> bool:
    """Whether the report is not current, or the files in the home are not its files."""
    manifest = study.resolver.find("ratio_report")
    is_copied = manifest is not None and report.is_copied(study, manifest)
    return not is_copied or _is_stale(study, "ratio_report", "", recorded)


def lacking(study: Study, cells: Iterable[Cell]) -> list[Cell]:
    """The cells, each under each of its seeds, without predictions."""
    trainings = [training for cell in cells for training in study.seeds_of(cell)]
    return [one for one in trainings if not study.resolver.has("predictions", one.place)]


def shared_out(study: Study, cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in one part for each run that may hold the device, with about equal optimizer steps: each cell, the
    longest first, goes to the part with the fewest steps.
    """
    steps = {cell: sum(adapters.steps_of(study, one) for one in lacking(study, [cell])) for cell in cells}
    runs = study.profile.device.max_concurrent_runs if any(steps.values()) else 1
    parts: list[list[Cell]] = [[] for _ in range(min(runs, len(cells)))]
    for cell in sorted(cells, key=steps.__getitem__, reverse=True):
        min(parts, key=lambda part: sum(steps[other] for other in part)).append(cell)
    return [sorted(part, key=cells.index) for part in parts if part]


def is_judge_in_process(study: Study) -> bool:
    """Whether a judge is a model on this machine's device."""
    return any(spec.backend in HOLDS_DEVICE for spec in study.profile.judges)


def _has(study: Study, asset: str) -> bool:
    """Whether any cell has the asset."""
    return any(study.resolver.has(asset, cell.place) for cell in study.cells)


def _is_cell_stale(study: Study, recorded: Recorded, cell: Cell) -> bool:
    if any(_is_stale(study, asset, cell.place, recorded) for asset in BY_CELL):
        return True
    # Dagster's record of a cell is that of the first seed.
    seeds = study.seeds_of(cell)[1:]
    return any(study.resolver.state(asset, one.place) is not State.CURRENT for one in seeds for asset in BY_CELL)


def _is_stale(study: Study, asset: str, partition: str, recorded: Recorded) -> bool:
    """Also true where an upstream artifact is missing."""
    is_current = study.resolver.state(asset, partition) is State.CURRENT
    return not is_current or recorded(asset, partition) != study.resolver.need(asset, partition).self_digest
