"""Requests to chat models in a process of its own, which a test kills or runs beside another.

`python -m tests.helpers.chat_child JOB.json` does the job in a file and prints its result as JSON.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.profiles.models import ChatSpec, HostedChat, InProcessChat
from tests.helpers.children import command, environment
from tests.helpers.hosted_models import answered, context_of, texts_of

CHAT: TypeAdapter[InProcessChat | HostedChat] = TypeAdapter(ChatSpec)


class Job(NamedTuple):
    """`work`: `texts` answers the prompts, `rows` makes that number of synthetic rows, `verdicts` judges posts."""

    work: str
    journal: str
    spec: dict[str, Any]
    budget: float | None = None
    profile: str = "faults"
    prompts: list[str] | None = None
    task: str = ""
    rows: int = 0


class Result(NamedTuple):
    """Texts or a table as JSON, or the error that ended the job."""

    content: Any
    error: str = ""


def run(job: Job) -> Any:
    """Texts of the replies, or the table as JSON."""
    spec, context = CHAT.validate_python(job.spec), context_of(job.journal, job.budget, job.profile)
    if job.work == "texts":
        return texts_of(answered(spec, context, job.prompts or []))
    # Imported here: a job of `texts` starts in half the time without them.
    from tests.helpers.hosted_tables import rows_of, verdicts_of

    assert isinstance(spec, HostedChat)
    table = rows_of(job.task, spec, context, job.rows) if job.work == "rows" else verdicts_of(job.task, spec, context)
    return json.loads(table.to_json(orient="split"))


class Child:
    """A process that does a job."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def result(self) -> Result:
        """Its result, once it has ended."""
        output, errors = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, errors
        return Result(*json.loads(output))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(60)
        assert self.process.returncode == -9, "it ended before it was killed"


@contextlib.contextmanager
def child(job: Job, folder: Path) -> Iterator[Child]:
    """A process that does the job; it ends with the context."""
    path = folder / f"job-{len(list(folder.glob('job-*')))}.json"
    path.write_text(json.dumps(job._asdict()), encoding="utf-8")
    with subprocess.Popen(
        command("chat_child", path), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def main(path: str) -> None:
    """Does the job in a file and prints its result."""
    try:
        result = Result(run(Job(**json.loads(Path(path).read_text(encoding="utf-8")))))
    except SynthpostError as error:
        result = Result(None, f"{type(error).__name__}: {error}")
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
