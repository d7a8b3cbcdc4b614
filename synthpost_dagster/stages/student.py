"""The student model while the device is leased: loaded once for tuning and for generation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.inference.models import Loaded, load
from synthpost_dagster.runtime.devices import Lease, clear_frames, memory_for
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.training.sft import Tuner
from synthpost_dagster.training.trainers import trainer

if TYPE_CHECKING:
    from synthpost_dagster.stages.study import Study

REMEDY = "stop what else uses it, choose a smaller student, or set student.quantization: nf4 in the profile"


class Student:
    """The profile's student. Device and model are leased and loaded on first use.

    It carries a tuner or is the plain base model. A trainer that loads a model of its own kind (`trainers.APART`) runs
    in a process of its own, where the student does nothing else.
    """

    def __init__(self, study: Study, progress: Progress, steps: int = 0) -> None:
        self._study, self._progress, self._steps = study, progress, steps
        self._stack = contextlib.ExitStack()
        self._loaded: Loaded | None = None
        self._lease: Lease | None = None
        self._tuner: Tuner | None = None
        self._failure: SynthpostError | None = None

    def tuner(self, steps: int) -> Tuner:
        """The tuner; compiled for the planned steps, or for `steps` if that is more."""
        if self._tuner is None:
            profile, device = self._study.profile, self.lease.device
            kind = trainer(profile.training.trainer)
            with self._loading():
                if self._loaded is None:
                    self._loaded = kind.load(profile.student, profile.training, device)
                self._tuner = kind(
                    self._loaded, profile.student.model, profile.training, max(steps, self._steps), device
                )
        return self._tuner

    @property
    def lease(self) -> Lease:
        """The device's lease."""
        if self._lease is None:
            memory = self._study.profile.student.memory_gib
            self._lease = self._stack.enter_context(self._study.devices.lease(memory, waiting=self._progress.note))
        return self._lease

    def untuned(self) -> Loaded:
        """The plain base model, without a tuner."""
        self._untune()
        if self._loaded is None:
            with self._loading():
                self._loaded = load(self._study.profile.student, self.lease.device)
        return self._loaded

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        """Frees a model that cannot be loaded, and does not load it again for the next cell."""
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        try:
            with memory_for(self.lease.device, "while the student was loaded", REMEDY):
                yield
        except SynthpostError as error:
            self._failure, self._loaded = error, None
            clear_frames(error)
            raise

    def close(self) -> None:
        """Frees the model and ends the lease."""
        try:
            self._untune()
        finally:
            self._loaded = None
            self._stack.close()
            self._lease = None

    def _untune(self) -> None:
        tuner, self._tuner = self._tuner, None
        if tuner is not None:
            tuner.close()


@contextlib.contextmanager
def holding(study: Study, progress: Progress, steps: int = 0) -> Iterator[Student]:
    """The student for the duration of the context; `steps` are the planned optimizer steps, where known."""
    student = Student(study, progress, steps)
    try:
        yield student
    except BaseException as error:
        clear_frames(error)
        raise
    finally:
        student.close()
