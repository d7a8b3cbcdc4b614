"""Why a Dagster run failed: the Synthpost error in its events, as an error of this process."""

from collections.abc import Iterator
from typing import NamedTuple

from dagster import DagsterEventType, DagsterExecutionInterruptedError, DagsterInstance
from dagster._core.events import JobCanceledData, JobFailureData
from dagster_shared.error import SerializableErrorInfo

from synthpost_dagster import errors

INTERRUPTS = (DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__)
OURS = f"{errors.__name__}."
"""Start of the message of a Synthpost error, as Dagster keeps it."""


def failure_of(instance: DagsterInstance, run_id: str, title: str) -> errors.SynthpostError:
    """The error of a run that failed; ArtifactDamaged where a step read a damaged artifact.

    Raises KeyboardInterrupt where the run was interrupted.
    """
    for entry in instance.all_logs(run_id, of_type={DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}):
        data = entry.dagster_event.event_specific_data if entry.dagster_event else None
        error = data.error if isinstance(data, JobFailureData | JobCanceledData) else None
        if error is not None and error.cls_name in INTERRUPTS:  # while it waited, in no step
            raise KeyboardInterrupt
    failed = [
        error
        for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE)
        if entry.dagster_event and (error := entry.dagster_event.step_failure_data.error)
    ]
    found = why(failed[0]) if failed else Why("it ended without an error of a step")
    is_damage = any(one.cls_name == errors.ArtifactDamaged.__name__ for error in failed for one in _chain(error))
    kind = errors.ArtifactDamaged if is_damage else errors.SynthpostError
    return kind(f"{title}: {found.sentence} (run {run_id[:8]} in the UI)", details=found.details)


class Why(NamedTuple):
    """Why a run failed, in one sentence, and the lines that belong under it."""

    sentence: str
    details: tuple[str, ...] = ()


def why(error: SerializableErrorInfo) -> Why:
    """The first Synthpost error in the chain of causes, which names place and remedy; without one the root cause.

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
    while error is not None:
        yield error
        error = error.cause or error.context


def _read(error: SerializableErrorInfo) -> Why:
    lines = error.message.partition(": ")[2].splitlines()
    details = [line for line in lines if line.startswith(errors.DETAIL_INDENT)]
    sentence = _one_line(" ".join(line for line in lines if line not in details))
    return Why(sentence, tuple(line.removeprefix(errors.DETAIL_INDENT) for line in details))


def _one_line(message: str) -> str:
    return " ".join(message.split())
