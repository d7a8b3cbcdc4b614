"""Runs a sweep from the command line: the same jobs on the same Dagster instance as the UI, one run a cell.

In process where that is faster (the CPU); where the profile says so (a GPU), each run that holds a model has a process
of its own. What is up to date is not run again; what it decides by is in `planning`, what people see in `terminal`.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dagster import DagsterEventType, DagsterExecutionInterruptedError, DagsterInstance, Definitions
from dagster._core.events import JobCanceledData, JobFailureData
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster_shared.error import SerializableErrorInfo

from synthpost_dagster import errors
from synthpost_dagster.artifacts.drafts import remove_abandoned
from synthpost_dagster.cell import Cell
from synthpost_dagster.console import Terminal
from synthpost_dagster.orchestration.build import build_definitions
from synthpost_dagster.orchestration.instance import DRIVER_TAG, PROCESS_TAG, recorded_in, tidy
from synthpost_dagster.orchestration.jobs import sweep_config
from synthpost_dagster.runtime.child_processes import run_apart
from synthpost_dagster.runtime.processes import this_process
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.settings import Settings, prepare
from synthpost_dagster.stages import doctor, planning, synthetic_rows
from synthpost_dagster.stages.report import require_cells
from synthpost_dagster.stages.study import Study, open_study

INTERRUPTS = (DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__)
MAX_REPAIRS = 5
"""How often a sweep begins again after it met a damaged artifact."""
OURS = f"{errors.__name__}."
"""Begins the message of an error that we raise on purpose, as Dagster keeps it."""


class Unit(NamedTuple):
    """One run to start: a job, its partition, its title for people, its work, its configuration, and whether it holds a
    model on this machine's device.
    """

    job: str
    partition: str | None
    title: str
    work: float
    ops: dict[str, object]
    holds_model: bool = False


class Sweep:
    """Drives one sweep. Used as a context: `with open_sweep(settings) as sweep: sweep.run(cells)`."""

    def __init__(self, study: Study, definitions: Definitions, instance: DagsterInstance, terminal: Terminal) -> None:
        self.study, self.definitions, self.instance, self.terminal = study, definitions, instance, terminal
        self.recorded = recorded_in(instance, definitions.resolve_asset_graph())

    def run(self, cells: Sequence[Cell]) -> None:
        """Brings the cells and the report up to date.

        Raises the error of the first stage that fails; ModelError before any stage where a model's files are damaged.
        Where a stage meets a damaged artifact, which is then set aside, it begins again, so that it is made again.
        """
        for _ in range(MAX_REPAIRS):
            try:
                self._run(cells)
            except errors.ArtifactDamaged as error:
                SILENT.note(str(error))
            else:
                return
        self._run(cells)

    def _run(self, cells: Sequence[Cell]) -> None:
        study, recorded = self.study, self.recorded
        sizes = sorted({cell.data_size for cell in cells})
        self.terminal.plan(planning.work_left(study, cells, sizes[-1]))
        wanted = planning.stale_cells(study, recorded, cells)
        doctor.require_models(study)
        self._require_endpoints(sizes[-1], bool(wanted))
        has_new_upstream = self._upstream(sizes[-1])
        self._subsets(planning.stale_subsets(self.study, recorded, sizes))
        if has_new_upstream:
            self.terminal.plan(planning.work_left(self.study, cells, sizes[-1]))
        self._cells(cells, planning.stale_cells(self.study, recorded, cells))
        self._controls()
        self.report()

    def report(self) -> None:
        """Brings the report up to date. Raises UpstreamMissing before any run where no cell has verdicts."""
        require_cells(self.study)
        if planning.is_report_stale(self.study, self.recorded):
            self._start(Unit("report", None, "report", 0.0, {}))
        else:
            self.terminal.reused("report")

    def _require_endpoints(self, rows: int, has_cells_to_judge: bool) -> None:
        """Raises EndpointError before time is spent, where an endpoint that will be asked is of no use, and warns of
        one that may be.
        """
        study, recorded = self.study, self.recorded
        if planning.are_rows_stale(study, recorded, rows) and synthetic_rows.has_rows_to_ask(study, rows):
            self.terminal.warn(doctor.require_endpoints(study, ["teacher"]))
        if has_cells_to_judge or planning.are_controls_stale(study, recorded):
            judges = [role for role in study.profile.roles if role != "teacher"]
            self.terminal.warn(doctor.require_endpoints(study, judges))

    def _controls(self) -> None:
        work = planning.controls_work(self.study)
        if planning.are_controls_stale(self.study, self.recorded):
            self._start(Unit("controls", None, "controls", work, {}, planning.is_judge_in_process(self.study)))
        else:
            self.terminal.reused("controls")

    def _upstream(self, rows: int) -> bool:
        """Whether there was something to do."""
        if not planning.is_upstream_stale(self.study, self.recorded, rows):
            self.terminal.reused("upstream")
            return False
        work = planning.upstream_work(self.study, rows)
        self._start(Unit("upstream", None, "upstream", work, {"synthetic_rows": {"config": {"rows": rows}}}, True))
        return True

    def _subsets(self, sizes: Sequence[int]) -> None:
        if not sizes:
            self.terminal.reused("subsets")
        for size in sizes:
            self._start(Unit("subsets", str(size), f"subset {size}", 0.0, {}))

    def _cells(self, cells: Sequence[Cell], wanted: Sequence[Cell]) -> None:
        """Fills the artifacts that the wanted cells lack, many from one loaded student; each cell's run adopts them."""
        study = self.study
        for cell in cells:
            if cell not in wanted:
                self.terminal.reused(f"cell {cell.key}")
        filled = planning.cells_to_fill(study, wanted)
        self._start(*self._sweeps(filled))
        study = self.study
        work = {cell: planning.cell_work(study, cell) for cell in wanted}
        if filled:
            self.terminal.plan(sum(work.values()) + planning.controls_work(study))
        for cell in wanted:
            holds_model = bool(planning.unfilled(study, [cell])) or planning.is_judge_in_process(study)
            self._start(Unit("cell", cell.key, f"cell {cell.key}", work[cell], {}, holds_model))

    def _sweeps(self, cells: Sequence[Cell]) -> list[Unit]:
        """The runs that fill the cells: as many at a time as the device has slots."""
        parts = planning.dealt(self.study, cells, self.study.profile.device.max_concurrent_runs)
        units = []
        for place, part in enumerate(parts, start=1):
            number = f" {place} of {len(parts)}" if len(parts) > 1 else ""
            title = f"sweep{number} ({len(part)} {'cell' if len(part) == 1 else 'cells'})"
            work = planning.work_to_fill(self.study, part)
            units.append(Unit("sweep", None, title, work, sweep_config(part), True))
        return units

    def _start(self, *units: Unit) -> None:
        """Runs one unit, or several at a time."""
        if not units:
            return
        tidy(self.instance, self.study.profile.device.max_concurrent_runs)
        for unit in units:
            self.terminal.started(unit.title)
        try:
            if len(units) > 1 or any(unit.holds_model and self.study.profile.device.process_per_run for unit in units):
                self._run_apart(units)
            else:
                self._run_here(units[0])
        finally:
            self.study = self.study.fresh()

    def _run_here(self, unit: Unit) -> None:
        try:
            execute(self.definitions, self.instance, unit)
        except errors.SynthpostError:
            self.terminal.failed(unit.title, unit.work)
            raise
        self.terminal.finished(unit.title, unit.work)

    def _run_apart(self, units: Sequence[Unit]) -> None:
        work = {unit.title: unit.work for unit in units}

        def ended(title: str, is_good: bool) -> None:
            if is_good:
                self.terminal.finished(title, work[title])
            else:
                self.terminal.failed(title, work[title])

        calls = {unit.title: (self.study.settings, unit) for unit in units}
        run_apart(_execute_apart, calls, self.terminal.heard, ended)


@contextmanager
def open_sweep(settings: Settings, terminal: Terminal) -> Iterator[Sweep]:
    """A sweep of the settings' study on the Dagster instance of its home."""
    study = open_study(settings)
    prepare(settings)
    remove_abandoned(settings.home)
    with open_instance(settings) as instance:
        yield Sweep(study, build_definitions(settings), instance, terminal)


def open_instance(settings: Settings) -> DagsterInstance:
    """The home's Dagster instance, without the processes that copy a step's output to files.

    What a stage says is in the run's event log and in the terminal; those processes would only take time, and print
    tracebacks of their own when someone presses Ctrl-C. So would the database's connections that are being closed then.
    """
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    quiet = {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(settings.dagster_home), overrides={"compute_logs": quiet}))


def execute(definitions: Definitions, instance: DagsterInstance, unit: Unit) -> None:
    """One run in this process. Raises the error of the step that failed, or of the check that did."""
    result = definitions.resolve_job_def(unit.job).execute_in_process(
        instance=instance,
        partition_key=unit.partition,
        run_config={"ops": unit.ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={DRIVER_TAG: "cli", PROCESS_TAG: this_process()},
        raise_on_error=False,
    )
    if result.success:
        return
    _raise_if_interrupted(instance, result.run_id)
    kind = errors.ArtifactDamaged if _met_damage(instance, result.run_id) else errors.SynthpostError
    why_failed = _why_failed(instance, result.run_id)
    raise kind(f"{unit.title}: {why_failed.sentence} (run {result.run_id[:8]} in the UI)", details=why_failed.details)


def _execute_apart(settings: Settings, unit: Unit) -> None:
    """The run in this process, which is its own."""
    prepare(settings)
    with open_instance(settings) as instance:
        execute(build_definitions(settings), instance, unit)


def _raise_if_interrupted(instance: DagsterInstance, run_id: str) -> None:
    """Raises KeyboardInterrupt where the run was told to end while it waited, in no step of its own."""
    for entry in instance.all_logs(run_id, of_type={DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}):
        data = entry.dagster_event.event_specific_data if entry.dagster_event is not None else None
        error = data.error if isinstance(data, JobFailureData | JobCanceledData) else None
        if error is not None and error.cls_name in INTERRUPTS:
            raise KeyboardInterrupt


def _met_damage(instance: DagsterInstance, run_id: str) -> bool:
    """Whether a step of a run failed because an artifact that it reads is damaged."""
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        error = event.step_failure_data.error if event is not None and event.is_step_failure else None
        while error is not None:
            if error.cls_name == errors.ArtifactDamaged.__name__:
                return True
            error = error.cause
    return False


class Why(NamedTuple):
    """Why a run failed, in one sentence, and the lines that belong under it."""

    sentence: str
    details: tuple[str, ...] = ()


def _why_failed(instance: DagsterInstance, run_id: str) -> Why:
    """The error of a run's first step that failed. Raises KeyboardInterrupt where the run was interrupted."""
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        error = event.step_failure_data.error if event is not None and event.is_step_failure else None
        if error is not None:
            return why(error)
    return Why("it ended without an error of a step")


def why(error: SerializableErrorInfo) -> Why:
    """The first error of ours in the chain of what it was raised from: it knows place and remedy; else the root cause.

    Raises KeyboardInterrupt where the root cause is one.
    """
    root = error
    while root.cause is not None:
        root = root.cause
    if root.cls_name in INTERRUPTS:
        raise KeyboardInterrupt
    ours = next((one for one in _chain(error) if one.message.startswith(OURS)), None)
    return _read(ours) if ours else Why(_one_line(root.message))


def _chain(error: SerializableErrorInfo | None) -> Iterator[SerializableErrorInfo]:
    """The error and what it was raised from, or while handling, outermost first."""
    while error is not None:
        yield error
        error = error.cause or error.context


def _read(error: SerializableErrorInfo) -> Why:
    """An error of ours: its message without the class, and its details."""
    lines = error.message.partition(": ")[2].splitlines()
    details = [line for line in lines if line.startswith(errors.DETAIL_INDENT)]
    sentence = _one_line(" ".join(line for line in lines if line not in details))
    return Why(sentence, tuple(line.removeprefix(errors.DETAIL_INDENT) for line in details))


def _one_line(message: str) -> str:
    return " ".join(message.split())
