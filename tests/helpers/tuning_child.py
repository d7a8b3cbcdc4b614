"""Tunes a cell in a process of its own, which stands still in the midst: `tuning_child.py STEP`."""

from __future__ import annotations

import signal
import sys
import threading

from synthpost_dagster.runtime.child_processes import INTERRUPTED
from synthpost_dagster.runtime.progress import Event, Progress
from synthpost_dagster.settings import keep_quiet, read_settings
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.stages.study import open_study


def main(step: int) -> None:
    """Says what progress says, a line each; at the end of that step it waits to be ended."""

    def listen(event: Event) -> None:
        sys.stdout.write(f"{event.text}\n")
        sys.stdout.flush()
        if event.what == "training" and event.done == step:
            threading.Event().wait()

    study = open_study(read_settings())
    materialize(study, "adapters", study.cells[0].place, Progress(listen))


if __name__ == "__main__":
    # Ignored where the tests were started in the background by a script, and inherited from them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_quiet()
    try:
        main(int(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
