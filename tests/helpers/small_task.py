"""Task folders: the packaged task with a small catalog, rows for it that no teacher wrote, and edits of YAML files.

Whole studies (task, profile and home) are in `small_study`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.tasks.loading import PACKAGED
from synthpost_dagster.tasks.task import Task

EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]
"""The fixture `edit_task`: edits a YAML file of the small task and loads the task again."""


def edit_yaml(path: Path, change: Callable[[Any], object]) -> None:
    """Reads a YAML file, lets `change` edit its content in place, and writes it back."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    write_yaml(path, content)


def write_yaml(path: Path, content: Any) -> None:
    """Writes the content in its own order."""
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")


def copy_task(folder: Path, train: int, holdout: int, **changes: Any) -> Path:
    """The packaged task with two companies of that many products; `changes` are keys of task.yaml."""
    shutil.copytree(PACKAGED / "sales_posts", folder)
    edit_yaml(folder / "companies.yaml", lambda companies: companies.__delitem__(slice(2, None)))
    companies = [company["name"] for company in yaml.safe_load((folder / "companies.yaml").read_text(encoding="utf-8"))]

    def cut(products: list[dict[str, Any]]) -> None:
        of = [
            [one for one in products if (one["company"], one["split"]) == (company, split)][:count]
            for company in companies
            for split, count in (("train", train), ("holdout", holdout))
        ]
        products[:] = [one for some in of for one in some]

    edit_yaml(folder / "products.yaml", cut)
    edit_yaml(folder / "task.yaml", lambda task: task.update(changes))
    return folder


def product_of(products: list[dict[str, Any]], company: int = 0, split: str = "train") -> dict[str, Any]:
    """The first product of a company in products.yaml of the small task, for `edit_task`."""
    names = list(dict.fromkeys(one["company"] for one in products))
    return next(one for one in products if (one["company"], one["split"]) == (names[company], split))


def write_small_task(folder: Path) -> Path:
    """Two companies with two train products and one holdout product each: 220 training, 110 evaluation prompts."""
    sweep = {"data_sizes": [8, 88, 176, 220], "steps": [2, 50, "1-epoch"]}
    return copy_task(folder, 2, 1, sweep=sweep, evaluation={"prompts": 110})


def kept_rows(task: Task, posts: Sequence[str]) -> pd.DataFrame:
    """A kept row for each post, of the first training prompts (schema SyntheticRows)."""
    prompts = training_prompts(task).head(len(posts))
    return prompts.drop(columns="teacher_prompt").assign(
        attempt=0,
        post=posts,
        status="kept",
        reason="",
        stripped="",
        is_in_band=True,
        raw_reply=posts,
        finish_reason="stop",
        prompt_tokens=10,
        completion_tokens=3,
        teacher_model="fake",
        reply_key=[fingerprint({"id": name}) for name in prompts["prompt_id"]],
    )
