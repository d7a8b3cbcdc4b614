"""The packaged task, cut down until it can be exhausted, and rows for it that no teacher wrote."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.tasks.loading import PACKAGED
from synthpost_dagster.tasks.task import Task


def write_small_task(folder: Path) -> Path:
    """Two companies with two train products and one holdout product each: 220 training, 110 evaluation prompts."""
    shutil.copytree(PACKAGED / "sales_posts", folder)
    catalog = yaml.safe_load((folder / "catalog.yaml").read_text(encoding="utf-8"))
    catalog["companies"] = catalog["companies"][:2]
    for company in catalog["companies"]:
        company["products"] = {"train": company["products"]["train"][:2], "holdout": company["products"]["holdout"][:1]}
    write_yaml(folder / "catalog.yaml", catalog)
    task = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
    task["sweep"] = {"data_sizes": [8, 88, 176, 220], "steps": [2, 50, "1-epoch"]}
    task["evaluation"] = {"prompts": 110}
    write_yaml(folder / "task.yaml", task)
    return folder


def kept_rows(task: Task, posts: Sequence[str]) -> pd.DataFrame:
    """A kept row with each of the posts, for the first of the training prompts (schema SyntheticRows)."""
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


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """The content as a YAML file that people can read."""
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
