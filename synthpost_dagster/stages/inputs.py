"""Records of inputs: what may shape an artifact, as a frozen dataclass whose hash is the artifact's fingerprint.

A record holds all of it and nothing else. Where a stage needs a part of the task, the record holds a task in which the
rest is hidden (`narrowed`), so that code cannot depend on what is not hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any

from synthpost_dagster.artifacts.store import Manifest
from synthpost_dagster.tasks.spec import Company
from synthpost_dagster.tasks.task import Task

WORDING = ("name", "tones", "lengths", "universal_criteria", "post_types")
"""Keys of task.yaml that prompts are made of."""
_HASHED = "hashed"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Base of the records. A manifest counts by the digest of its content."""

    @property
    def parts(self) -> dict[str, Any]:
        """Every hashed field by name, as JSON or as a pydantic model."""
        kept = [one for one in fields(self) if one.metadata.get(_HASHED, _part) is not None]
        return {one.name: one.metadata.get(_HASHED, _part)(getattr(self, one.name)) for one in kept}


def hashed(part: Callable[[Any], Any]) -> Any:
    """A field that counts by `part` of its value."""
    return field(metadata={_HASHED: part})


def not_hashed() -> Any:
    """A field that the other fields determine, or that shapes no table of the artifact but its gates."""
    return field(metadata={_HASHED: None})


def narrowed(task: Task, keep: Collection[str], split: str = "", roles: Collection[str] = ()) -> Task:
    """The task with these keys of task.yaml, the items of one split (or of both) and the templates of these roles.

    What is left out is None or absent; reading it fails.
    """
    hidden = {name: None for name in type(task.spec).model_fields if name not in keep}
    catalog = task.catalog
    if split:
        companies = tuple(_of_split(company, split) for company in catalog.companies)
        catalog = catalog.model_copy(update={"companies": companies})
    sources = {role: text for role, text in task.sources.items() if role in roles}
    return replace(task, spec=task.spec.model_copy(update=hidden), catalog=catalog, sources=sources)


def _of_split(company: Company, split: str) -> Company:
    other = {"train": "holdout", "holdout": "train"}[split]
    return company.model_copy(update={"products": company.products.model_copy(update={other: ()})})


def _part(value: Any) -> Any:
    if isinstance(value, Manifest):
        return value.digest
    return list(value) if isinstance(value, tuple) else value
