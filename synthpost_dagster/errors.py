"""Every error that Synthpost raises on purpose.

SynthpostError
├── SpecError          a task or profile file, or what was asked for, does not fit
├── UpstreamMissing    an artifact that a stage reads is not there yet
├── GateFailed         an artifact is there, but a check on it failed
├── StorageError       the home folder or the storage cannot be read or written
│   └── ArtifactDamaged  a file of an artifact is missing or differs; the next run makes the artifact again
├── DeviceError        no device, too little memory, or the lease is held elsewhere
├── ModelError         a model cannot be loaded, or does not fit the task
├── EndpointError      an endpoint is out of reach, refuses, or asks for a longer pause than there is patience for
└── BudgetReached      the next request might pass the budget

The command line prints the message of these as one sentence and exits with status 2; anything else is a defect
and keeps its traceback.
"""

from collections.abc import Iterable

DETAIL_INDENT = "  "
"""Begins a line under an error's message."""


class SynthpostError(Exception):
    """Base of all errors below; the message names what is wrong, where, and what to do.

    `details` are lines to print under the message, such as counts and examples. They are kept as notes (PEP 678), so
    that Dagster shows them too.
    """

    def __init__(self, message: str = "", *, details: Iterable[str] = ()) -> None:
        super().__init__(message)
        for line in details:
            self.add_note(f"{DETAIL_INDENT}{line}")

    @property
    def details(self) -> list[str]:
        """The lines under the message."""
        return [note.removeprefix(DETAIL_INDENT) for note in getattr(self, "__notes__", [])]


class SpecError(SynthpostError):
    """A task or profile file, or a request, is wrong: names file, key and remedy."""


class UpstreamMissing(SynthpostError):
    """A stage was asked for before what it reads exists: names the asset, the partition and the command."""


class GateFailed(SynthpostError):
    """An artifact exists but failed a check, so nothing may be built on it."""


class StorageError(SynthpostError):
    """The home folder or the artifact storage cannot be read or written."""


class ArtifactDamaged(StorageError):
    """A file of an artifact is missing or differs from its manifest; a run that follows makes the artifact again."""


class DeviceError(SynthpostError):
    """The device is missing, too small, or leased to another process for too long."""


class ModelError(SynthpostError):
    """A model cannot be loaded, or was not made for this task."""


class EndpointError(SynthpostError):
    """An endpoint ends the run: it is out of reach, refuses the key or the model, or its limit is reached."""


class BudgetReached(SynthpostError):
    """The next request might pass the budget: says what was spent."""
