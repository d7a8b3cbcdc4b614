"""A run of one step in the pool `gpu`, in a process of its own that prints what it does, line by line.

`python -m tests.helpers.pool_child HOME HOST hold|pass`. HOST is the name that this machine gives itself, so that two
processes can be on two hosts; `-` keeps the real one.
"""

import socket
import sys
from typing import Any

from dagster import DagsterInstance, Definitions, OpExecutionContext, job, op

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.orchestration.driver import execute
from synthpost_dagster.orchestration.waiting import use_waiting_claims
from synthpost_dagster.resources.gpu import POOL, GpuResource
from synthpost_dagster.resources.journal import JournalResource
from synthpost_dagster.resources.study import StudyResource
from synthpost_dagster.resources.tables import TablesResource
from synthpost_dagster.runtime.processes import resend_lost_interrupts
from synthpost_dagster.runtime.progress import subscribed
from synthpost_dagster.stages.planning import Run


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def definitions(home: str, acts: str) -> Definitions:
    @op(pool=POOL)
    def step(_: OpExecutionContext, study: StudyResource) -> None:
        say("holds")
        if acts == "hold":
            sys.stdin.read()

    @job
    def report() -> None:
        step()

    parts: dict[str, Any] = {
        "gpu": GpuResource(),
        "tables": TablesResource(storage=home, home=home),
        "journal": JournalResource(home=home),
    }
    return Definitions(
        jobs=[report], resources={"study": StudyResource(task="sales_posts", profile="tiny", home=home, **parts)}
    )


def main(home: str, host: str, acts: str) -> None:
    """Executes the run as the driver does."""
    if host != "-":
        socket.gethostname = lambda: host
    use_waiting_claims()
    resend_lost_interrupts()
    try:
        with DagsterInstance.from_config(home) as instance, subscribed(lambda event: say(event.text)):
            execute(definitions(home, acts), instance, Run("report"))
        say("done")
    except KeyboardInterrupt:
        say("stopped")
    except SynthpostError as error:
        say(f"failed: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
