"""Reads a task folder: `task.yaml`, `catalog.yaml` and `prompts/*.j2`, all checked before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from synthpost_dagster.errors import SpecError
from synthpost_dagster.tasks.spec import Catalog, Company, Product, TaskSpec
from synthpost_dagster.tasks.templates import PromptTemplate, compiled
from synthpost_dagster.yaml_files import combined, read_record, read_text

Result = TypeVar("Result")
PACKAGED = Path(__file__).parent
ROLES = ("teacher", "student", "judge")


@dataclass(frozen=True)
class Task:
    """A task folder, read and checked.

    `sources` holds the templates' text by role; `spec` and `catalog` are the two YAML files.
    """

    folder: Path
    spec: TaskSpec
    catalog: Catalog
    sources: dict[str, str]

    def template(self, role: str) -> PromptTemplate:
        """The compiled template of `teacher`, `student` or `judge`. Raises SpecError naming file and line."""
        return compiled(self.sources[role], str(self.folder / "prompts" / f"{role}.j2"))

    @property
    def wording_fingerprint(self) -> str:
        """Hash of all that shapes a prompt besides the catalog: templates, types, lengths, tones, criteria."""
        wording = {
            "teacher": self.sources["teacher"],
            "student": self.sources["student"],
            "tones": self.spec.tones,
            "lengths": [length.text for length in self.spec.lengths],
            "universal": [criterion.text for criterion in self.spec.universal_criteria],
            "types": [
                (kind.name, kind.length, [criterion.text for criterion in kind.criteria])
                for kind in self.spec.post_types
            ],
        }
        return hashlib.sha256(json.dumps(wording, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def criterion_ids(self) -> list[str]:
        """Every criterion's id once, the universal ones first."""
        return list(dict.fromkeys(c.id for kind in self.spec.post_types for c in self.spec.criteria_of(kind)))

    @property
    def strata(self) -> list[tuple[str, str]]:
        """Post type × tone, in the task's order."""
        return [(kind.name, tone) for kind in self.spec.post_types for tone in self.spec.tones]

    def companies_of(self, split: str) -> list[tuple[Company, Product]]:
        """Every company with each of its products in `split` (`train` or `holdout`)."""
        return [
            (company, product) for company in self.catalog.companies for product in getattr(company.products, split)
        ]

    @property
    def training_prompts(self) -> int:
        """How many training prompts the task has: products × post types × tones."""
        return len(self.companies_of("train")) * len(self.strata)


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
    """What the step gives; where it raises SpecError, that is put to the problems."""
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
                f"{file}: sweep.data_sizes: {largest} rows are asked for, but the catalog's train products × post "
                f"types × tones give {rows}; lower the size or add products"
            )
        )
    available = len(task.companies_of("holdout")) * len(task.strata)
    if task.spec.evaluation.prompts > available:
        found.append(
            SpecError(
                f"{file}: evaluation.prompts: {task.spec.evaluation.prompts} are asked for, but the holdout products "
                f"give {available}; lower the number or add holdout products"
            )
        )
    return found


def _check_template(task: Task, role: str) -> None:
    from synthpost_dagster.tasks.prompting import Brief, judge_prompt, render_prompt

    company, product = task.companies_of("train")[0]
    briefs = [Brief(company, product, kind, tone) for kind in task.spec.post_types for tone in task.spec.tones]
    for brief in briefs:
        if role == "judge":
            judge_prompt(task, brief, "one post", "another post", may_tie=True)
        else:
            render_prompt(task, role, brief)
