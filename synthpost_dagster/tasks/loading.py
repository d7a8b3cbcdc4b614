"""Reads a task folder: `task.yaml`, `catalog.yaml` and `prompts/*.j2`, all checked before anything runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.yaml_files import combined, read_record, read_text
from synthpost_dagster.tasks.prompting import Brief, judge_prompt, render_prompt
from synthpost_dagster.tasks.spec import Catalog, TaskSpec
from synthpost_dagster.tasks.task import Task

Result = TypeVar("Result")
PACKAGED = Path(__file__).parent
ROLES = ("teacher", "student", "judge")


def load_task(name: str) -> Task:
    """The packaged task of that name, or the task in the folder of that path.

    Raises SpecError with a line for each thing that is wrong in its files, naming file, line, key and remedy.
    """
    folder = _folder(name)
    problems: list[SpecError] = []
    spec = _tried(problems, lambda: read_record(folder / "task.yaml", TaskSpec))
    catalog = _tried(problems, lambda: read_record(folder / "catalog.yaml", Catalog))
    sources = {role: _tried(problems, partial(_source, folder / "prompts" / f"{role}.j2")) for role in ROLES}
    if spec is None or catalog is None:
        raise combined(problems)
    task = Task(folder, spec, catalog, {role: source for role, source in sources.items() if source is not None})
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


def _size_problems(task: Task) -> list[SpecError]:
    file, rows = task.folder / "task.yaml", task.training_prompts
    largest = task.spec.sweep.data_sizes[-1]
    found = []
    if largest > rows:
        found.append(
            SpecError(
                f"{file}: sweep.data_sizes: {largest} rows are requested, but the catalog's train products × post "
                f"types × tones give {rows}; lower the size or add products"
            )
        )
    available = len(task.companies_of("holdout")) * len(task.strata)
    if task.spec.evaluation.prompts > available:
        found.append(
            SpecError(
                f"{file}: evaluation.prompts: {task.spec.evaluation.prompts} are requested, but the holdout products "
                f"give {available}; lower the number or add holdout products"
            )
        )
    return found


def _check_template(task: Task, role: str) -> None:
    company, product = task.companies_of("train")[0]
    briefs = [Brief(company, product, kind, tone) for kind in task.spec.post_types for tone in task.spec.tones]
    for brief in briefs:
        if role == "judge":
            judge_prompt(task, brief, "one post", "another post", may_tie=True)
        else:
            render_prompt(task, role, brief)
