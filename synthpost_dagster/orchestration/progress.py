"""Progress of a step: it goes to the run's log, and ends the run when someone has cancelled it."""

import time

from dagster import AssetExecutionContext, DagsterExecutionInterruptedError, DagsterRunStatus, OpExecutionContext

from synthpost_dagster.runtime.progress import Event, Listener, Progress, to_log

CHECK_SECONDS = 2.0
"""Between two looks at whether the run was cancelled."""


def progress_of(context: AssetExecutionContext | OpExecutionContext) -> Progress:
    """Progress that goes to the run's log."""
    return Progress(to_log(context.log.info), _end_if_cancelled(context))


def _end_if_cancelled(context: AssetExecutionContext | OpExecutionContext) -> Listener:
    """A listener that raises DagsterExecutionInterruptedError once the run is cancelled.

    Dagster also interrupts the run by an exception. Where that is raised in a finalizer, Python drops it and the run
    would continue.
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
