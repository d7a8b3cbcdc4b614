"""A home where only the adapters are missing, for the fault and gpu tests, and processes that are stopped in tuning."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import yaml

from synthpost_dagster.artifacts.store import Plan
from synthpost_dagster.inference.peft_files import WEIGHTS
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import read_settings
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.stages.study import Study, open_study
from tests.helpers.small_task import kept_rows, write_small_task, write_yaml

CHILD = Path(__file__).with_name("tuning_child.py")
MOST_SECONDS = 120
"""For a process to import its libraries and train some steps; one that waits for the device longer is ended."""


class World(NamedTuple):
    """A home in which all that an adapter is made of lies ready, its task and its profile."""

    home: Path
    task: Path
    profile: Path

    def open(self) -> Study:
        return open_study(read_settings(str(self.home), str(self.task), str(self.profile)))

    def copied(self, home: Path) -> World:
        """The same in another home."""
        return self._replace(home=shutil.copytree(self.home, home))

    @property
    def environment(self) -> dict[str, str]:
        """For child processes: ours, with this world named in it and with all that can be imported here."""
        named = {
            "SYNTHPOST_HOME": str(self.home),
            "SYNTHPOST_TASK": str(self.task),
            "SYNTHPOST_PROFILE": str(self.profile),
        }
        return {**os.environ, **named, "PYTHONPATH": os.pathsep.join(sys.path)}


def ready_to_tune(folder: Path, device: str = "cpu", dtype: str = "float32", steps: Sequence[int] = (4,)) -> World:
    """Eight rows for cells of so many steps, written without a teacher; a checkpoint after every step."""
    made = World(folder / "home", write_small_task(folder / "task"), folder / "mine.yaml")
    sweep = {"data_sizes": [8], "steps": list(steps)}
    task = yaml.safe_load((made.task / "task.yaml").read_text(encoding="utf-8"))
    write_yaml(made.task / "task.yaml", task | {"sweep": sweep})
    profile = {
        "extends": "tiny",
        "name": "mine",
        "student": {"dtype": dtype},
        "training": {"precision": dtype, "checkpoint_seconds": 1e-9, "lora": {"r": 4}},
        "device": {"device": device},
        "sweep": sweep,
        "evaluation_prompts": 11,
    }
    write_yaml(made.profile, profile)
    study = made.open()
    for asset in ("catalog", "prompts"):
        materialize(study, asset)
    rows = kept_rows(study.task, [" ".join(f"word{at * place}" for place in range(1, 9 + 3 * at)) for at in range(8)])
    parts = study.resolver.plan("synthetic_rows").parts | {"rows": 8}
    study.store.reuse_or_make(Plan("synthetic_rows", "", parts), lambda draft: draft.table("synthetic_rows", rows))
    assert not materialize(study.fresh(), "data_subsets", "8").manifest.failed_gates
    return made


class Run(NamedTuple):
    """What a run of the stage made."""

    weights: dict[str, torch.Tensor]
    curve: pd.DataFrame
    notes: list[str]
    steps: list[int]


def run(study: Study) -> Run:
    """The first cell's adapter, made or made to its end in this process."""
    from safetensors.torch import load

    events: list[Event] = []
    manifest = materialize(study, "adapters", study.cells[0].place, Progress(events.append)).manifest
    return Run(
        load(study.store.read_file(manifest, WEIGHTS)),
        study.store.read_table(manifest),
        [event.text for event in events],
        [event.done for event in events if event.what == "training" and event.made],
    )


@contextlib.contextmanager
def standing_at(world: World, step: int) -> Iterator[subprocess.Popen[str]]:
    """A process that tunes the first cell and stands still at the end of that step, to be ended."""
    command = [sys.executable, str(CHILD), str(step)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=world.environment) as process:
        limit = threading.Timer(MOST_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith(f"training: {step} of"):
                    break
            else:
                raise AssertionError(f"it ended by itself: {said}")
            yield process
        finally:
            limit.cancel()
            process.kill()
