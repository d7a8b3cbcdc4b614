"""One run of TRL's trainer: from the last checkpoint on where there is one, to a loss curve."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.errors import StorageError, SynthpostError
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.training.checkpoints import Checkpoints, fault_of

if TYPE_CHECKING:
    import pandas as pd

CURVE = ("step", "loss", "learning_rate")


class Ran(NamedTuple):
    """The whole loss curve (schema LossCurve), and how many of the steps were done now."""

    curve: pd.DataFrame
    steps: int


def run(trainer: Any, checkpoints: Checkpoints, progress: Progress, steps: int) -> Ran:
    """Trains to the end of so many steps.

    A checkpoint that cannot be read is removed, and the training begins anew. Raises SynthpostError where a loss is not
    a number, and StorageError where a checkpoint cannot be written.
    """
    import pandas as pd

    last = _last(checkpoints, progress)
    begin = checkpoints.last_step() if last else 0
    if last:
        progress.note(f"training goes on from step {begin} of {steps}")
    try:
        with warnings.catch_warnings(), _saving(checkpoints.folder):
            warnings.filterwarnings("ignore", category=FutureWarning)
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    except StorageError:
        raise
    except SynthpostError:
        # The next run would go on from weights that are spoilt already.
        checkpoints.remove()
        raise
    except Exception as error:
        if last:
            error.add_note(f"The training went on from {last}; delete that folder to begin it anew.")
        raise
    entries = [entry for entry in trainer.state.log_history if set(CURVE) <= set(entry)]
    curve = pd.DataFrame([{name: entry[name] for name in CURVE} for entry in entries]).astype({"loss": float})
    return Ran(curve, steps - begin)


def refuse_infinite(step: int, loss: float) -> None:
    """Raises SynthpostError where the loss is not a number."""
    if not math.isfinite(loss):
        raise SynthpostError(f"the loss is not a number at step {step}; lower training.learning_rate in the profile")


def _last(checkpoints: Checkpoints, progress: Progress) -> Path | None:
    """The last checkpoint, if it can be read."""
    last = checkpoints.last()
    fault = fault_of(last) if last else ""
    if fault:
        progress.note(f"{last} cannot be read ({fault}); it is removed, and the training begins anew")
        checkpoints.remove()
        return None
    return last


@contextlib.contextmanager
def _saving(folder: Path) -> Iterator[None]:
    """Turns what the system or safetensors say against writing a checkpoint into a StorageError."""
    from safetensors import SafetensorError

    with writing(folder):
        try:
            yield
        except SafetensorError as error:
            raise StorageError(f"{folder}: cannot be written ({error}); free space, or set SYNTHPOST_HOME") from error
