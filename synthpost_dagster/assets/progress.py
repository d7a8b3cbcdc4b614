"""Progress of a step: goes to the run's log, and ends the run once it is cancelled."""

import time

from dagster import AssetExecutionContext, DagsterExecutionInterruptedError, DagsterRunStatus, OpExecutionContext

from synthpost_dagster.runtime.progress import Event, Listener, Progress, to_log

CHECK_SECONDS = 2.0
"""Seconds between two checks whether the run was cancelled."""


def progress_of(context: AssetExecutionContext | OpExecutionContext) -> Progress:
    """Progress that goes to the run's log."""
    return Progress(to_log(context.log.info), _end_if_cancelled(context))


def _end_if_cancelled(context: AssetExecutionContext | OpExecutionContext) -> Listener:
    """A listener that raises DagsterExecutionInterruptedError once the run is cancelled.

    Dagster also raises an exception in the run. Python drops it if it is raised in a finalizer, and the run would
    continue.
    """
    checked = {"at": time.monotonic()}

    def listen(_: Event) -> None:
        if time.monotonic() - checked["at"] < CHECK_SECONDS:
            return
        checked["at"] = time.monotonic()
        run = context.instance.get_run_by_id(context.run.run_id)
        if run is not None and run.status is DagsterRunStatus.CANCELING:
            raise DagsterExecutionInterruptedError

    return listen
