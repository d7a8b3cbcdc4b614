"""A study in which only the adapters are missing, and processes that tests stop while they train.

`python -m tests.helpers.tuning_home STEP` trains the first cell of the study in its environment, prints its progress,
and waits at the end of that step until it is ended. Training without a study is in `tuning`.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.inference.peft_files import WEIGHTS
from synthpost_dagster.runtime.child_processes import INTERRUPTED
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import keep_quiet, read_settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.stages.study import Study
from tests.helpers.children import command, environment
from tests.helpers.small_study import SmallStudy
from tests.helpers.small_task import edit_yaml, kept_rows, write_small_task, write_yaml

MAX_SECONDS = 120
"""For a process to import its libraries and to train some steps."""


def ready_to_tune(root: Path, device: str = "cpu", dtype: str = "float32", steps: Sequence[int] = (4,)) -> SmallStudy:
    """Eight rows for cells of these steps, written without a teacher; a checkpoint after every step."""
    small = SmallStudy(root)
    sweep = {"data_sizes": [8], "steps": list(steps)}
    write_small_task(small.task)
    edit_yaml(small.task / "task.yaml", lambda task: task.update(sweep=sweep))
    profile = {
        "extends": "tiny",
        "name": "mine",
        "student": {"dtype": dtype},
        "training": {"precision": dtype, "checkpoint_seconds": 1e-9, "lora": {"r": 4}},
        "device": {"device": device},
        "sweep": sweep,
        "evaluation_prompts": 11,
    }
    write_yaml(small.profile, profile)
    study = small.open()
    for asset in ("catalog", "prompts"):
        materialize(study, asset)
    rows = kept_rows(study.task, [" ".join(f"word{at * place}" for place in range(1, 9 + 3 * at)) for at in range(8)])
    parts = study.resolver.plan("synthetic_rows").parts | {"rows": 8}
    study.store.reuse_or_make(Plan("synthetic_rows", "", parts), lambda draft: draft.table("synthetic_rows", rows))
    assert not materialize(study.fresh(), "data_subsets", "8").manifest.failed_gates
    return small


class Run(NamedTuple):
    """Weights and losses that a run made, its notes, and the steps that it did."""

    weights: dict[str, torch.Tensor]
    curve: pd.DataFrame
    notes: list[str]
    steps: list[int]


def run(study: Study) -> Run:
    """Makes the first cell's adapter in this process, or completes it."""
    from safetensors.torch import load

    events: list[Event] = []
    manifest = materialize(study, "adapters", study.cells[0].place, Progress(events.append)).manifest
    return Run(
        load(study.store.read_file(manifest, WEIGHTS)),
        study.store.read_table(manifest),
        [event.text for event in events],
        [event.done for event in events if event.what == "training"][1:],
    )


@contextlib.contextmanager
def waiting_at(small: SmallStudy, step: int) -> Iterator[subprocess.Popen[str]]:
    """A process that trains the first cell and waits at the end of that step, to be ended."""
    start = command("tuning_home", step)
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True, env=environment(**small.environment())) as process:
        limit = threading.Timer(MAX_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            printed = []
            for line in process.stdout:
                printed.append(line)
                if line.startswith(f"training: {step} of"):
                    break
            else:
                raise AssertionError(f"it ended by itself: {printed}")
            yield process
        finally:
            limit.cancel()
            process.kill()


def main(step: int) -> None:
    """Prints progress, one event per line, and waits at the end of that step."""

    def listen(event: Event) -> None:
        sys.stdout.write(f"{event.text}\n")
        sys.stdout.flush()
        if event.what == "training" and event.done == step:
            threading.Event().wait()

    study = open_study(read_settings())
    materialize(study, "adapters", study.cells[0].place, Progress(listen))


if __name__ == "__main__":
    # Interrupts are ignored where a script started the tests in the background, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_quiet()
    try:
        main(int(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
