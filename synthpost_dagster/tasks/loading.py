"""Reads a task folder: `task.yaml`, its items and `prompts/*.j2`, all checked before anything runs."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.yaml_files import combined, read_record, read_text
from synthpost_dagster.tasks.items import read_items
from synthpost_dagster.tasks.prompting import judge_prompt, render_prompt
from synthpost_dagster.tasks.spec import ROLES, TaskSpec
from synthpost_dagster.tasks.task import Task

Result = TypeVar("Result")
PACKAGED = Path(__file__).parent


def load_task(name: str) -> Task:
    """The packaged task of that name, or the task in the folder of that path.

    Raises SpecError with a line for each thing that is wrong in its files, naming file, line, key and remedy.
    """
    folder = _folder(name)
    problems: list[SpecError] = []
    spec = _tried(problems, lambda: read_record(folder / "task.yaml", TaskSpec))
    sources = {role: _tried(problems, partial(_source, folder / "prompts" / f"{role}.j2")) for role in ROLES}
    items = _tried(problems, lambda: read_items(folder, spec)) if spec else None
    if spec is None or items is None:
        raise combined(problems)
    task = Task(folder, spec, items, {role: source for role, source in sources.items() if source is not None})
    problems += _size_problems(task)
    for role in task.sources:
        _tried(problems, partial(_check_template, task, role))
    if problems:
        raise combined(problems)
    return task


def _tried(problems: list[SpecError], step: Callable[[], Result]) -> Result | None:
    """The result of the step; None if it raises SpecError, which is added to the problems."""
    try:
        return step()
    except SpecError as error:
        problems.append(error)
        return None


def packaged_tasks() -> list[str]:
    """Names of the tasks that ship with the package."""
    return sorted(path.parent.name for path in PACKAGED.glob("*/task.yaml"))


def _folder(name: str) -> Path:
    if name in packaged_tasks():
        return PACKAGED / name
    folder = Path(name).expanduser()
    if (folder / "task.yaml").is_file():
        return folder.resolve()
    raise SpecError(
        f"task {name!r}: neither a packaged task ({', '.join(packaged_tasks())}) "
        "nor a folder with a task.yaml; correct SYNTHPOST_TASK or --task"
    )


def _source(path: Path) -> str:
    if not path.is_file():
        raise SpecError(
            f"{path}: this template is missing; a task has prompts/{', prompts/'.join(f'{r}.j2' for r in ROLES)}"
        )
    return read_text(path)


def _size_problems(task: Task) -> Iterator[SpecError]:
    file, items = task.folder / "task.yaml", task.spec.words.item[1]
    largest = task.spec.sweep.data_sizes[-1]
    if largest > task.training_prompts:
        yield SpecError(
            f"{file}: sweep.data_sizes: {largest} rows are requested, but the {items} and levels for training give "
            f"{task.training_prompts} prompts; lower the size, add {items}, or raise samples_per_prompt"
        )
    if task.spec.evaluation.prompts > task.evaluation_prompts:
        yield SpecError(
            f"{file}: evaluation.prompts: {task.spec.evaluation.prompts} are requested, but the holdout gives "
            f"{task.evaluation_prompts}; lower the number, or raise the share of the holdout"
        )


def _check_template(task: Task, role: str) -> None:
    """Renders the template for one brief of each combination of levels."""
    briefs = {brief.levels: brief for split in ("train", "holdout") for brief in task.briefs(split)}
    for brief in briefs.values():
        if role == "judge":
            judge_prompt(task, brief, "one output", "another output", may_tie=True)
        else:
            render_prompt(task, role, brief)
