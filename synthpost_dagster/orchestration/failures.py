"""Why a Dagster run failed: the error of ours in its events, as an error of this process."""

from collections.abc import Iterator
from typing import NamedTuple

from dagster import DagsterEventType, DagsterExecutionInterruptedError, DagsterInstance
from dagster._core.events import JobCanceledData, JobFailureData
from dagster_shared.error import SerializableErrorInfo

from synthpost_dagster import errors

INTERRUPTS = (DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__)
OURS = f"{errors.__name__}."
"""Begins the message of an error that we raise on purpose, as Dagster keeps it."""


def failure_of(instance: DagsterInstance, run_id: str, title: str) -> errors.SynthpostError:
    """The error of a run that failed. Raises KeyboardInterrupt where the run was interrupted."""
    _raise_if_interrupted(instance, run_id)
    kind = errors.ArtifactDamaged if _met_damage(instance, run_id) else errors.SynthpostError
    found = _why_failed(instance, run_id)
    return kind(f"{title}: {found.sentence} (run {run_id[:8]} in the UI)", details=found.details)


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
