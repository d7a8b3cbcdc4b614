"""Runs a study from the command line: the same jobs on the same Dagster instance as the UI.

It loops over `stages.planning.next_runs` until there is nothing to start. A run is in this process, or in its own where
the profile says so (a GPU). Why a run failed is read in `failures`.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dagster import DagsterInstance, Definitions
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager

from synthpost_dagster import errors
from synthpost_dagster.artifacts.drafts import remove_abandoned
from synthpost_dagster.assets.partitions import key_of
from synthpost_dagster.cell import Cell
from synthpost_dagster.console import Terminal
from synthpost_dagster.orchestration.build import build_definitions
from synthpost_dagster.orchestration.failures import failure_of
from synthpost_dagster.orchestration.instance import DRIVER_TAG, PROCESS_TAG, recorded_in, tidy
from synthpost_dagster.orchestration.jobs import ops_config
from synthpost_dagster.runtime.child_processes import run_apart
from synthpost_dagster.runtime.processes import this_process
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.settings import Settings, prepare
from synthpost_dagster.stages import doctor, planning, synthetic_rows
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.planning import Run, next_runs
from synthpost_dagster.stages.report import require_cells
from synthpost_dagster.stages.study import Study

MAX_REPAIRS = 5
"""Number of restarts of a study that found a damaged artifact."""


class Driver:
    """Brings one study up to date: `with open_driver(settings, terminal) as driver: driver.run(cells)`."""

    def __init__(self, study: Study, definitions: Definitions, instance: DagsterInstance, terminal: Terminal) -> None:
        self.study, self.definitions, self.instance, self.terminal = study, definitions, instance, terminal
        self.recorded = recorded_in(instance, definitions.resolve_asset_graph())

    def run(self, cells: Sequence[Cell]) -> None:
        """Brings the cells and the report up to date. A failed run stops only the runs that depend on it.

        Once nothing is left to do, it raises the error of what failed. It raises ModelError or EndpointError before any
        run if a model's files are damaged or an endpoint that it needs cannot be used. A run that finds a damaged
        artifact sets it aside; the study then starts again and makes it again.
        """
        for _ in range(MAX_REPAIRS):
            try:
                self._run(cells)
            except errors.ArtifactDamaged as error:
                SILENT.note(str(error))
            else:
                return
        self._run(cells)

    def report(self) -> None:
        """Brings the report up to date. Raises UpstreamMissing before any run where no cell has verdicts."""
        study = self.study.fresh()
        require_cells(study)
        if planning.is_report_stale(study, self.recorded):
            self._raise(self._start([Run("report")]))
        else:
            self.terminal.reused("report")

    def _run(self, cells: Sequence[Cell]) -> None:
        failed: dict[Run, errors.SynthpostError] = {}
        started: list[Run] = []
        runs = next_runs(self.study, self.recorded, cells=cells)
        if runs:
            self._prepare(cells)
        else:
            for title in ("upstream", "subsets", *(f"cell {cell.key}" for cell in cells), "controls", "report"):
                self.terminal.reused(title)
        while runs:
            started += runs
            failed |= self._start(runs)
            runs = next_runs(self.study, self.recorded, failed=started, cells=cells)
        self._raise(failed)

    def _prepare(self, cells: Sequence[Cell]) -> None:
        """Warns about the models and endpoints that the runs need. Raises ModelError or EndpointError."""
        study, recorded, rows = self.study.fresh(), self.recorded, max(cell.data_size for cell in cells)
        doctor.require_models(study)
        if planning.are_rows_stale(study, recorded, rows) and synthetic_rows.has_rows_to_ask(study, rows):
            self.terminal.warn(doctor.require_endpoints(study, ["teacher"]))
        if planning.stale_cells(study, recorded, cells) or planning.are_controls_stale(study, recorded):
            judges = [role for role in study.profile.roles if role != "teacher"]
            self.terminal.warn(doctor.require_endpoints(study, judges))

    def _start(self, runs: Sequence[Run]) -> dict[Run, errors.SynthpostError]:
        """Executes the runs and returns the errors of those that failed. Raises ArtifactDamaged."""
        tidy(self.instance, self.study.profile.device.max_concurrent_runs)
        is_apart = self.study.profile.device.process_per_run and any(run.holds_model for run in runs)
        if is_apart or (len(runs) > 1 and runs[0].cells):
            return self._run_apart(runs)
        failed = {}
        for run in runs:
            self.terminal.started(run.title)
            try:
                execute(self.definitions, self.instance, run)
            except errors.ArtifactDamaged:
                self.terminal.failed(run.title)
                raise
            except errors.SynthpostError as error:
                self.terminal.failed(run.title)
                failed[run] = error
            else:
                self.terminal.finished(run.title)
        return failed

    def _run_apart(self, runs: Sequence[Run]) -> dict[Run, errors.SynthpostError]:
        places = enumerate(runs, start=1)
        titles = {f"{run.title}, {place} of {len(runs)}" if len(runs) > 1 else run.title: run for place, run in places}
        for title in titles:
            self.terminal.started(title)

        def ended(title: str, is_good: bool) -> None:
            (self.terminal.finished if is_good else self.terminal.failed)(title)

        calls = {title: (self.study.settings, run) for title, run in titles.items()}
        try:
            run_apart(_execute_apart, calls, self.terminal.heard, ended)
        except errors.ArtifactDamaged:
            raise
        except errors.SynthpostError as error:
            return dict.fromkeys(runs, error)
        return {}

    def _raise(self, failed: dict[Run, errors.SynthpostError]) -> None:
        """Raises the error of what failed; of several, one that names them all."""
        reasons = list(dict.fromkeys(failed.values()))
        if len(reasons) == 1:
            raise reasons[0]
        if reasons:
            lines = [line for error in reasons for line in (str(error), *error.details)]
            raise errors.SynthpostError(f"{len(failed)} runs failed", details=lines)


@contextmanager
def open_driver(settings: Settings, terminal: Terminal) -> Iterator[Driver]:
    """A driver of the settings' study on the Dagster instance of its home."""
    study = open_study(settings)
    prepare(settings)
    remove_abandoned(settings.home)
    with open_instance(settings) as instance:
        yield Driver(study, build_definitions(settings), instance, terminal)


def open_instance(settings: Settings) -> DagsterInstance:
    """The home's Dagster instance, without the processes that copy a step's output to files.

    Stages report to the run's event log and to the terminal. Those processes would only take time and print tracebacks
    at Ctrl-C, as would the connections of the database that are closed then.
    """
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    quiet = {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(settings.dagster_home), overrides={"compute_logs": quiet}))


def execute(definitions: Definitions, instance: DagsterInstance, run: Run) -> None:
    """One run in this process. Raises the error of the step or check that failed."""
    partition = key_of(run.cells[0]) if run.job == "cell" else str(run.size) if run.size is not None else None
    result = definitions.resolve_job_def(run.job).execute_in_process(
        instance=instance,
        partition_key=partition,
        run_config={"ops": ops_config(run), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={DRIVER_TAG: "cli", PROCESS_TAG: this_process()},
        raise_on_error=False,
    )
    if not result.success:
        raise failure_of(instance, result.run_id, run.title)


def _execute_apart(settings: Settings, run: Run) -> None:
    """Executes a run in a process of its own."""
    prepare(settings)
    with open_instance(settings) as instance:
        execute(build_definitions(settings), instance, run)
