"""Checkpoints of an unfinished training, and the run of a trainer that resumes from the last one.

They are kept in the home, below the fingerprint of the adapter, until the adapter is published. transformers' Trainer
writes them: weights as safetensors, optimizer state with torch, which reads it with `weights_only`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthpost_dagster.artifacts.store import writing
from synthpost_dagster.errors import StorageError, SynthpostError
from synthpost_dagster.inference.peft_files import WEIGHTS
from synthpost_dagster.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

COMPLETE = "whole"
"""A file written last into a checkpoint, with the training's layout; a checkpoint without it is incomplete."""
PREFIX = "checkpoint-"
STATE = "trainer_state.json"
RANDOM = "rng_state.pth"
OPTIMIZER = ("optimizer.pt", "scheduler.pt", RANDOM)
"""Files without which transformers would resume from a different state, without an error."""
CURVE = ("step", "loss", "learning_rate")


class Checkpoints:
    """The checkpoints of one training, at most one per `seconds`.

    `layout` describes how rows are laid out in memory; a checkpoint stores it for the training that resumes.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self._seconds = folder, seconds
        self._at = time.monotonic()
        self.layout = ""

    def is_due(self) -> bool:
        """Whether `seconds` have passed since the last one; if so, the clock restarts."""
        if time.monotonic() - self._at < self._seconds:
            return False
        self._at = time.monotonic()
        return True

    def complete(self, step: int) -> None:
        """Syncs the checkpoint of this step to disk, marks it as complete, and removes the earlier ones."""
        folder = self.folder / f"{PREFIX}{step}"
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        (folder / COMPLETE).write_text(self.layout, encoding="utf-8")
        for other in self._all():
            if self._step(other) != step:
                shutil.rmtree(other, ignore_errors=True)

    def last(self) -> Path | None:
        """The latest complete checkpoint; incomplete ones are removed."""
        for folder in self._all():
            if not (folder / COMPLETE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        return max(self._all(), key=self._step, default=None)

    def last_step(self) -> int:
        """The step of the latest complete checkpoint; 0 if there is none."""
        last = self.last()
        return self._step(last) if last else 0

    def last_layout(self) -> str:
        """The layout of the latest complete checkpoint; empty if there is none or it cannot be read."""
        last = self.last()
        try:
            return (last / COMPLETE).read_text(encoding="utf-8") if last else ""
        except (OSError, UnicodeDecodeError):
            return ""

    def remove(self) -> None:
        """Removes all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob(f"{PREFIX}*") if path.is_dir()]

    @staticmethod
    def _step(folder: Path) -> int:
        return int(folder.name.removeprefix(PREFIX))


def fault_of(checkpoint: Path) -> str:
    """Why training cannot resume from a checkpoint; empty if it can. Reads all files without running pickles.

    Raises StorageError if the operating system cannot read a file.
    """
    import torch
    from safetensors.torch import load_file
    from transformers.trainer_pt_utils import safe_globals

    try:
        load_file(checkpoint / WEIGHTS)
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or "global_step" not in state:
            return f"{STATE} has no global_step"
        for name in OPTIMIZER:
            with safe_globals() if name == RANDOM else contextlib.nullcontext():
                torch.load(checkpoint / name, map_location="cpu", weights_only=True)  # noqa: TID251 - no pickle is run
    except FileNotFoundError as error:
        return str(error)
    except OSError as error:
        raise StorageError(
            f"{checkpoint}: cannot be read ({error.strerror}); repair the disk, or delete the folder to restart the "
            "training"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def run(trainer: Any, checkpoints: Checkpoints, progress: Progress, steps: int) -> tuple[pd.DataFrame, int]:
    """Trains for `steps` steps in all; the whole loss curve (schema LossCurve), and the number of steps done now.

    A checkpoint that cannot be read is removed, and training restarts. Raises SynthpostError if a loss is not finite,
    and StorageError if a checkpoint cannot be written.
    """
    import pandas as pd
    from safetensors import SafetensorError

    last = checkpoints.last()
    if last and (fault := fault_of(last)):
        progress.note(f"{last} cannot be read ({fault}); it is removed, and training restarts")
        checkpoints.remove()
        last = None
    begin = checkpoints.last_step()
    if last:
        progress.note(f"training resumes at step {begin} of {steps}")
    try:
        with warnings.catch_warnings(), writing(checkpoints.folder):
            warnings.filterwarnings("ignore", category=FutureWarning)
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    except SafetensorError as error:
        raise StorageError(
            f"{checkpoints.folder}: cannot be written ({error}); free space, or set SYNTHPOST_HOME"
        ) from error
    except StorageError:
        raise
    except SynthpostError:
        checkpoints.remove()  # their weights may be damaged already
        raise
    except Exception as error:
        if last:
            error.add_note(f"Training resumed from {last}; delete that folder to restart it.")
        raise
    entries = [entry for entry in trainer.state.log_history if set(CURVE) <= set(entry)]
    curve = pd.DataFrame([{name: entry[name] for name in CURVE} for entry in entries]).astype({"loss": float})
    return curve, steps - begin


def check_loss(step: int, loss: float) -> None:
    """Raises SynthpostError if the loss is not finite."""
    if not math.isfinite(loss):
        raise SynthpostError(f"the loss is not a number at step {step}; lower training.learning_rate in the profile")
