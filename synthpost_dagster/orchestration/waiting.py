"""How a run waits for a slot of a Dagster pool: it reports the holder, sleeps, frees the slots of ended processes, and
ends when it is cancelled.

Dagster's in-process executor only polls the clock and ignores signals. `build` applies this class to every run, of the
command line and of the UI.
"""

import time

from dagster import DagsterExecutionInterruptedError, DagsterRunStatus
from dagster._core.errors import raise_execution_interrupts
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.executor import in_process
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from synthpost_dagster.orchestration.instance import free_abandoned, holders, run_title
from synthpost_dagster.runtime.progress import Progress

LOOK_SECONDS = 1.0
FREE_SECONDS = 5.0
"""Seconds between two checks for slots of ended processes."""


class WaitingClaims(InstanceConcurrencyContext):
    """Claims pool slots for the steps of one run."""

    _freed_at = -FREE_SECONDS
    _reported = ""

    def claim(self, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
        """Whether the step has its slot; if not, returns after a pause.

        Raises DagsterExecutionInterruptedError when this process or this run is cancelled.
        """
        if super().claim(concurrency_key, step_key, step_priority):
            return True
        self._pending_timeouts[step_key] = 0.0  # this class pauses itself, by a monotonic clock
        with raise_execution_interrupts():
            self._end_if_cancelled()
            self._free(concurrency_key)
            self._report_holder(concurrency_key)
            time.sleep(LOOK_SECONDS)
        return False

    def _report_holder(self, pool: str) -> None:
        others = [run_id for run_id in holders(self._instance, pool) if run_id != self._run_id]
        if others and others[0] != self._reported:
            self._reported = others[0]
            Progress().note(f"waiting for a slot of pool {pool}: {run_title(self._instance, others[0])} holds it")

    def _end_if_cancelled(self) -> None:
        run = self._instance.get_run_by_id(self._run_id)
        if run is None or run.is_finished or run.status is DagsterRunStatus.CANCELING:
            raise DagsterExecutionInterruptedError

    def _free(self, pool: str) -> None:
        if time.monotonic() - self._freed_at < FREE_SECONDS:
            return
        self._freed_at = time.monotonic()
        free_abandoned(self._instance)
        storage = self._instance.event_log_storage
        # Where a process was killed between freeing a slot and assigning it to the next.
        if isinstance(storage, SqlEventLogStorage) and storage.has_unassigned_slots(pool):
            storage.assign_pending_steps([pool])


def use_waiting_claims() -> None:
    """Makes runs that this process executes wait in this way."""
    vars(in_process)["InstanceConcurrencyContext"] = WaitingClaims
