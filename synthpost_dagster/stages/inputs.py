"""Records of inputs: frozen dataclasses that hold everything an artifact depends on; their hash is its fingerprint.

Where a stage needs a part of the task, the record holds a task in which the rest is hidden (`narrowed`), so that code
cannot depend on anything that is not hashed.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.tasks.task import Task

WORDING = ("name", "tones", "lengths", "universal_criteria", "post_types")
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
    catalog = task.catalog
    if split:
        hide = {"holdout" if split == "train" else "train": ()}
        companies = tuple(
            one.model_copy(update={"products": one.products.model_copy(update=hide)}) for one in catalog.companies
        )
        catalog = catalog.model_copy(update={"companies": companies})
    sources = {role: text for role, text in task.sources.items() if role in roles}
    return replace(task, spec=task.spec.model_copy(update=hidden), catalog=catalog, sources=sources)


def _part(value: Any) -> Any:
    if isinstance(value, Manifest):
        return value.digest
    return list(value) if isinstance(value, tuple) else value
