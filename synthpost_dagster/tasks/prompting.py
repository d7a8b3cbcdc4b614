"""Turns a brief into the prompts of teacher, student and judge, and into its id."""

from functools import cache
from pathlib import Path

from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.spec import ItemField
from synthpost_dagster.tasks.task import Brief, NamedCriterion, Task
from synthpost_dagster.tasks.templates import PromptTemplate, compiled
from synthpost_dagster.text.special_tokens import broken_up


def prompt_id(task: Task, brief: Brief) -> str:
    """Stable id of a brief: editing a text, or adding an item, leaves the other ids as they were."""
    sample = [str(brief.sample)] if brief.sample else []
    return short_hash(task.spec.name, *task.names_of(brief.item).values(), *brief.levels, *sample)


def briefs_by_id(task: Task) -> dict[str, Brief]:
    """Prompt id → brief, of both splits."""
    return {prompt_id(task, brief): brief for split in ("train", "holdout") for brief in task.briefs(split)}


def render_prompt(task: Task, role: str, brief: Brief) -> str:
    """The `teacher` or `student` prompt of a brief."""
    return task.template(role).render(_names(task, role, brief))


def judge_prompt(task: Task, brief: Brief, post_a: str, post_b: str, may_tie: bool) -> str:
    """The judge's prompt for two outputs under neutral names."""
    return task.template("judge").render(_names(task, "judge", brief) | _outputs(post_a, post_b, may_tie))


def request_prompt(request: str, post_a: str, post_b: str, may_tie: bool) -> str:
    """The judge's prompt for two outputs written for a request in free words."""
    return _request_template().render({"request": request} | _outputs(post_a, post_b, may_tie))


@cache
def _request_template() -> PromptTemplate:
    file = Path(__file__).parent / "request.j2"
    return compiled(file.read_text(encoding="utf-8"), str(file))


def _outputs(post_a: str, post_b: str, may_tie: bool) -> dict[str, object]:
    """Both outputs without special tokens, and a fence that neither can contain, since it is a hash of both."""
    shown = {"post_a": broken_up(post_a), "post_b": broken_up(post_b)}
    return {**shown, "fence": short_hash(post_a, post_b), "may_tie": may_tie}


def _names(task: Task, role: str, brief: Brief) -> dict[str, object]:
    """The names that a template may use: plain data, since a template could call an object's methods."""
    spec, item = task.spec, brief.item
    names: dict[str, object] = {spec.words.item[0]: _shown(spec.items.fields, item.values, role)}
    if item.group and spec.items.groups:
        names[spec.group_column] = _shown(spec.items.groups.fields, item.group.values, role)
    if length := task.length_of(brief):
        name = task.length_name(brief)
        names["length"] = {"name": name, "text": length.text(name), **length.model_dump()}
    return {
        **names,
        **dict(zip(spec.factors, brief.levels, strict=True)),
        "always": _criteria(task.always()),
        "criteria": _criteria(task.level_criteria(brief)),
    }


def _shown(fields: dict[str, ItemField], values: object, role: str) -> dict[str, object]:
    return {name: dict(values)[name] for name, field in fields.items() if role in field.show}  # type: ignore[call-overload]


def _criteria(criteria: list[NamedCriterion]) -> list[dict[str, str]]:
    return [{"id": criterion.id, "text": criterion.text} for criterion in criteria]
