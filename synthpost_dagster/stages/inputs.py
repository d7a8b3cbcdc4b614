"""Records of inputs: frozen dataclasses that hold everything an artifact depends on; their hash is its fingerprint.

Where a stage needs a part of the task, the record holds a task in which the rest is hidden (`narrowed`), so that code
cannot depend on anything that is not hashed.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.tasks.items import BOTH
from synthpost_dagster.tasks.task import Task

WORDING = (
    "name",
    "words",
    "items",
    "factors",
    "exclude",
    "strata",
    "samples_per_prompt",
    "lengths",
    "holdout",
    "criteria",
    "always",
)
"""Keys of task.yaml that prompts depend on."""
HashedAs = Mapping[str, Callable[[Any], Any] | None]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Base of the records. Every field is hashed by its value, a manifest by the digest of its content.

    `hashed_as` names the fields that are hashed by a function of their value, or not at all (None): those that other
    fields determine, and those that only affect gates.
    """

    hashed_as: ClassVar[HashedAs] = {}

    @property
    def parts(self) -> dict[str, Any]:
        """Every hashed field by name, as JSON or as a pydantic model."""
        rules: dict[str, Callable[[Any], Any] | None] = {}
        for kind in reversed(type(self).__mro__):
            rules |= vars(kind).get("hashed_as", {})
        kept = {one.name: rules.get(one.name, _part) for one in fields(self)}
        return {name: rule(getattr(self, name)) for name, rule in kept.items() if rule}


def narrowed(task: Task, keep: Collection[str], split: str = "", roles: Collection[str] = ()) -> Task:
    """The task with these keys of task.yaml, the items of one split (or of both) and the templates of these roles.

    The rest is None or absent, so that reading it fails.
    """
    hidden = {name: None for name in type(task.spec).model_fields if name not in keep}
    items = tuple(item for item in task.items if not split or item.split in (split, BOTH))
    sources = {role: text for role, text in task.sources.items() if role in roles}
    return replace(task, spec=task.spec.model_copy(update=hidden), items=items, sources=sources)


def items_fingerprint(task: Task, split: str) -> str:
    """Hash of the items of a split, or of all where it is empty."""
    chosen = [item for item in task.items if not split or item.split in (split, BOTH)]
    return fingerprint({"items": [(item.name, item.group, item.values, item.levels, item.split) for item in chosen]})


def _part(value: Any) -> Any:
    if isinstance(value, Manifest):
        return value.digest
    return list(value) if isinstance(value, tuple) else value
