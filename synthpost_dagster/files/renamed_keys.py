"""Keys of profile and task files that had another name in an earlier version."""

from collections.abc import Sequence

RENAMED_KEYS = {
    "device.own_process": "process_per_run",
    "device.process_per_cell": "process_per_run",
    "device.slots": "max_concurrent_runs",
    "judges.attempts": "max_replies_per_row",
    "limits.patience_seconds": "max_retry_wait_seconds",
    "limits.tries": "max_request_attempts",
    "predictions.slots": "max_concurrent_sequences",
    "teacher.attempts": "max_replies_per_row",
}
"""Old key with the key that contains it → new name."""


def new_name(place: Sequence[int | str]) -> str | None:
    """The new name of the key at a place; None if it was not renamed."""
    return RENAMED_KEYS.get(".".join([str(part) for part in place if isinstance(part, str)][-2:]))
