"""The errors that Synthpost raises for faults outside its code.

SynthpostError
├── SpecError          a task or profile file, or an argument, is wrong
├── UpstreamMissing    an artifact that a stage reads does not exist yet
├── GateFailed         an artifact exists, but failed a check
├── StorageError       the home folder or the storage cannot be read or written
│   └── ArtifactDamaged  a file of an artifact is missing or differs; the next run makes the artifact again
├── DeviceError        no device, too little memory, or another process holds the lease
├── ModelError         a model cannot be loaded, or does not fit the task
├── EndpointError      an endpoint is unreachable, refuses, or asks for a pause above max_retry_wait_seconds
└── BudgetReached      the next request could exceed the budget

The command line prints the message of such an error and exits with status 2. Any other exception is a defect and
prints its traceback.
"""

from collections.abc import Iterable

DETAIL_INDENT = "  "
"""Prefix of a detail line."""


class SynthpostError(Exception):
    """Base of all errors; the message says what is wrong, where, and what to do.

    `details` are lines to print below the message, such as counts and examples. They are stored as notes (PEP 678), so
    Dagster shows them too.
    """

    def __init__(self, message: str = "", *, details: Iterable[str] = ()) -> None:
        super().__init__(message)
        for line in details:
            self.add_note(f"{DETAIL_INDENT}{line}")

    @property
    def details(self) -> list[str]:
        """The lines to print below the message."""
        return [note.removeprefix(DETAIL_INDENT) for note in getattr(self, "__notes__", [])]


class SpecError(SynthpostError):
    """A task or profile file, or an argument, is wrong; names file, key and fix."""


class UpstreamMissing(SynthpostError):
    """An artifact that a stage reads does not exist yet; names asset, partition and command."""


class GateFailed(SynthpostError):
    """An artifact exists but failed a check, so no other artifact may depend on it."""


class StorageError(SynthpostError):
    """The home folder or the artifact storage cannot be read or written."""


class ArtifactDamaged(StorageError):
    """A file of an artifact is missing or differs from its manifest; the next run makes it again."""


class DeviceError(SynthpostError):
    """The device is missing, has too little memory, or another process held the lease for too long."""


class ModelError(SynthpostError):
    """A model cannot be loaded, or does not fit the task."""


class EndpointError(SynthpostError):
    """An endpoint ends the run: it is unreachable, refuses the key or the model, or asks for too long a pause."""


class BudgetReached(SynthpostError):
    """The next request could exceed the budget; says what was spent."""
