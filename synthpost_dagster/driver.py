"""Runs a sweep from the command line: the same jobs on the same Dagster instance as the UI, one run a cell.

In process where that is faster (the CPU), each cell in a process of its own where the profile says so (a GPU). What is
up to date is not run again; what it decides by is in `planning`, what people see of it in `terminal`.
"""

import multiprocessing
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psutil
from dagster import DagsterInstance, Definitions, RunsFilter

from synthpost_dagster import planning
from synthpost_dagster.definitions import build_definitions
from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.jobs import DRIVER_TAG, UNFINISHED
from synthpost_dagster.progress import subscribed
from synthpost_dagster.records import recorded_in
from synthpost_dagster.resources.gpu import POOL
from synthpost_dagster.settings import Settings, prepare
from synthpost_dagster.stages.study import Cell, Study, open_study
from synthpost_dagster.terminal import Terminal

PROCESS_TAG = ".dagster/synthpost_process"
"""Dagster's UI hides tags that start so."""


class Unit(NamedTuple):
    """One run to start: a job, its partition, its title for people, its work and its configuration."""

    job: str
    partition: str | None
    title: str
    work: float
    ops: dict[str, object]


class Sweep:
    """Drives one sweep. Used as a context: `with open_sweep(settings) as sweep: sweep.run(cells)`."""

    def __init__(self, study: Study, definitions: Definitions, instance: DagsterInstance, terminal: Terminal) -> None:
        self.study, self.definitions, self.instance, self.terminal = study, definitions, instance, terminal

    def run(self, cells: Sequence[Cell]) -> None:
        """Brings the cells and the report up to date. Raises the first stage's error after naming its run."""
        study, recorded = self.study, recorded_in(self.instance)
        sizes = sorted({cell.data_size for cell in cells})
        self.terminal.plan(
            planning.upstream_work(study, sizes[-1]) + sum(planning.cell_work(study, cell) for cell in cells)
        )
        with subscribed(self.terminal.heard):
            self._upstream(sizes[-1])
            stale = planning.stale_subsets(study, recorded, sizes)
            self._each([Unit("subsets", str(size), f"subset {size}", 0.0, {}) for size in stale], sizes, "subsets")
            wanted = planning.stale_cells(study, recorded, cells)
            for cell in cells:
                if cell not in wanted:
                    self.terminal.reused(f"cell {cell.key}", planning.cell_work(study, cell))
            for cell in wanted:
                self._start(Unit("cell", cell.key, f"cell {cell.key}", planning.cell_work(study, cell), {}))
            self.report()

    def report(self) -> None:
        """Brings the report up to date."""
        if planning.is_report_stale(self.study, recorded_in(self.instance)):
            self._start(Unit("report", None, "report", 0.0, {}))
        else:
            self.terminal.reused("report", 0.0)

    def _upstream(self, rows: int) -> None:
        work = planning.upstream_work(self.study, rows)
        if not planning.is_upstream_stale(self.study, recorded_in(self.instance), rows):
            self.terminal.reused("upstream", work)
            return
        self._start(Unit("upstream", None, "upstream", work, {"synthetic_rows": {"config": {"rows": rows}}}))

    def _each(self, units: list[Unit], all_of_them: Sequence[object], name: str) -> None:
        if not units and all_of_them:
            self.terminal.reused(name, 0.0)
        for unit in units:
            self._start(unit)

    def _start(self, unit: Unit) -> None:
        self.terminal.started(unit.title)
        free_dead_slots(self.instance)
        if unit.job == "cell" and self.study.profile.device.process_per_cell:
            _run_apart(self.study.settings, unit)
        else:
            execute(self.definitions, self.instance, unit)
        self.terminal.finished(unit.title, unit.work)


@contextmanager
def open_sweep(settings: Settings, terminal: Terminal) -> Iterator[Sweep]:
    """A sweep of the settings' study on the Dagster instance of its home."""
    prepare(settings)
    study = open_study(settings)
    with DagsterInstance.get() as instance:
        configure_pool(instance, study.profile.device.slots)
        yield Sweep(study, build_definitions(settings), instance, terminal)


def execute(definitions: Definitions, instance: DagsterInstance, unit: Unit) -> None:
    """One run in this process. Raises the error of the step that failed, or of the check that did."""
    result = definitions.resolve_job_def(unit.job).execute_in_process(
        instance=instance,
        partition_key=unit.partition,
        run_config={"ops": unit.ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={DRIVER_TAG: "cli", PROCESS_TAG: _this_process()},
        raise_on_error=False,
    )
    if result.success:
        return
    raise SynthpostError(f"{unit.title}: {_why_failed(instance, result.run_id)} (run {result.run_id[:8]} in the UI)")


def configure_pool(instance: DagsterInstance, slots: int) -> None:
    """Makes the pool's limit on the instance the number of slots of the device."""
    storage = instance.event_log_storage
    if instance.global_op_concurrency_default_limit != slots or POOL in storage.get_concurrency_keys():
        storage.set_concurrency_slots(POOL, slots)


def free_dead_slots(instance: DagsterInstance) -> None:
    """Ends the runs of drivers that are no more, and frees the pool slots of every run that has ended.

    Dagster cannot know that a process was killed which ran a job inside itself, and would wait for its slot for ever.
    """
    for run in instance.get_runs(RunsFilter(tags={DRIVER_TAG: "cli"}, statuses=list(UNFINISHED))):
        if not _is_alive(run.tags.get(PROCESS_TAG, "")):
            instance.report_run_failed(run, "the process that drove this run was killed; its successor says so")
    storage = instance.event_log_storage
    if POOL not in storage.get_concurrency_keys():
        return
    held = storage.get_concurrency_info(POOL)
    for run_id in held.active_run_ids | held.pending_run_ids:
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def _run_apart(settings: Settings, unit: Unit) -> None:
    """The run in a fresh process, so that what it leaves on the device goes with it."""
    context = multiprocessing.get_context("spawn")
    messages = context.SimpleQueue()
    process = context.Process(target=_execute_apart, args=(settings, unit, messages))
    process.start()
    process.join()
    if not messages.empty():
        raise SynthpostError(messages.get())
    if process.exitcode:
        raise SynthpostError(f"{unit.title}: its process ended with {process.exitcode}; run again to go on from there")


def _execute_apart(settings: Settings, unit: Unit, messages: "multiprocessing.SimpleQueue[str]") -> None:
    prepare(settings)
    terminal = Terminal()
    try:
        with DagsterInstance.get() as instance, subscribed(terminal.heard):
            execute(build_definitions(settings), instance, unit)
    except SynthpostError as error:
        messages.put(str(error))


def _why_failed(instance: DagsterInstance, run_id: str) -> str:
    """The first error of a run in one sentence: our own message where there is one, else the type and message."""
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is not None and event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                return " ".join(error.message.split())
    return "it ended without an error of a step"


def _this_process() -> str:
    process = psutil.Process(os.getpid())
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def _is_alive(tag: str) -> bool:
    """Whether the process of a tag still runs; one on another host is taken to."""
    host, _, rest = tag.partition(":")
    pid, _, created = rest.partition(":")
    if host != socket.gethostname():
        return bool(host)
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == created
    except (psutil.Error, ValueError):
        return False
