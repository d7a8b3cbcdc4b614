"""Tunes a cell in a process of its own, which stands still in the midst: `tuning_child.py HOME TASK PROFILE STEP`."""

from __future__ import annotations

import sys
import threading

from synthpost_dagster.progress import Event, Progress
from synthpost_dagster.settings import keep_quiet, read_settings
from synthpost_dagster.stages.adapters import adapters
from synthpost_dagster.stages.study import open_study


def main(home: str, task: str, profile: str, step: str) -> None:
    """Says what progress says, a line each; at the end of that step it waits to be killed."""

    def listen(event: Event) -> None:
        sys.stdout.write(f"{event.text}\n")
        sys.stdout.flush()
        if event.what == "training" and event.done == int(step):
            threading.Event().wait()

    study = open_study(read_settings(home, task, profile))
    adapters(study, study.cells[0], Progress(listen))


if __name__ == "__main__":
    keep_quiet()
    main(*sys.argv[1:])
