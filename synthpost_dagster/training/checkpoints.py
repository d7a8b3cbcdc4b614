"""Checkpoints of a training under way, so that a killed one goes on from there.

They lie in the home, below the fingerprint of the adapter that is made, until it is published. Written by transformers'
Trainer: the weights as safetensors, what belongs to the optimizer by torch, which reads it with `weights_only`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from synthpost_dagster.errors import StorageError
from synthpost_dagster.inference.peft_files import WEIGHTS

WHOLE = "whole"
"""A file that is written after a checkpoint, with the training's layout: a checkpoint without it is incomplete."""
PREFIX = "checkpoint-"
STATE = "trainer_state.json"
RANDOM = "rng_state.pth"
OPTIMIZER = ("optimizer.pt", "scheduler.pt", RANDOM)
"""What transformers goes on from; without one of these it would go on all the same, from something else."""


class Checkpoints:
    """The checkpoints of one training, at most one in `seconds`.

    `layout` says in words how the rows are laid out in memory: a checkpoint keeps it for the training that resumes.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self._seconds = folder, seconds
        self._at = time.monotonic()
        self.layout = ""

    def is_due(self) -> bool:
        """Whether it is time for one; then the clock begins anew."""
        if time.monotonic() - self._at < self._seconds:
            return False
        self._at = time.monotonic()
        return True

    def written(self, step: int) -> None:
        """The checkpoint of this step is whole and on the disk: earlier ones go."""
        folder = self.folder / f"{PREFIX}{step}"
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        (folder / WHOLE).write_text(self.layout, encoding="utf-8")
        for place in self._all():
            if self._step(place) != step:
                shutil.rmtree(place, ignore_errors=True)

    def last(self) -> Path | None:
        """The latest whole one; what is not whole is removed."""
        for place in self._all():
            if not (place / WHOLE).exists():
                shutil.rmtree(place, ignore_errors=True)
        return max(self._all(), key=self._step, default=None)

    def last_step(self) -> int:
        """The step of the latest whole one; 0 where there is none."""
        last = self.last()
        return self._step(last) if last else 0

    def last_layout(self) -> str:
        """The layout of the latest whole one; empty where there is none, or where it cannot be read."""
        last = self.last()
        try:
            return (last / WHOLE).read_text(encoding="utf-8") if last else ""
        except (OSError, UnicodeDecodeError):
            return ""

    def remove(self) -> None:
        """All of it, once the adapter is published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return [place for place in self.folder.glob(f"{PREFIX}*") if place.is_dir()]

    @staticmethod
    def _step(place: Path) -> int:
        return int(place.name.removeprefix(PREFIX))


def fault_of(checkpoint: Path) -> str:
    """Why a checkpoint cannot be gone on from; empty where it can. Reads all of it, and runs nothing that is in it.

    Raises StorageError where it is the system that cannot read it.
    """
    try:
        _read(checkpoint)
    except FileNotFoundError as error:
        return str(error)
    except OSError as error:
        raise StorageError(
            f"{checkpoint}: cannot be read ({error.strerror}); mend the disk, or delete the folder to begin the "
            "training anew"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def _read(checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers.trainer_pt_utils import safe_globals

    load_file(checkpoint / WEIGHTS)
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict) or "global_step" not in state:
        raise ValueError(f"{STATE} holds no state of a training")
    for name in OPTIMIZER:
        with safe_globals() if name == RANDOM else contextlib.nullcontext():
            torch.load(checkpoint / name, map_location="cpu", weights_only=True)  # noqa: TID251 - no pickle is run
