"""Turns a brief (company, product, post type, tone) into the prompts of teacher, student and judge, and into its id."""

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from synthpost_dagster.tasks.spec import Company, Criterion, PostType, Product
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.tasks.templates import PromptTemplate, compiled
from synthpost_dagster.text.special_tokens import broken_up


class Brief(NamedTuple):
    """The product, type and tone of one post."""

    company: Company
    product: Product
    post_type: PostType
    tone: str


def short_hash(*parts: str) -> str:
    """16 hex digits of SHA-256 over the parts; the same on every machine."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def prompt_id(task: Task, brief: Brief) -> str:
    """Stable id of a brief: editing a text, or adding a product, leaves the other ids as they were."""
    return short_hash(task.spec.name, brief.company.name, brief.product.name, brief.post_type.name, brief.tone)


def render_prompt(task: Task, role: str, brief: Brief) -> str:
    """The `teacher` or `student` prompt of a brief."""
    return task.template(role).render(_names(task, brief))


def judge_prompt(task: Task, brief: Brief, post_a: str, post_b: str, may_tie: bool) -> str:
    """The judge's prompt for two posts under neutral names."""
    return task.template("judge").render(_names(task, brief) | _posts(post_a, post_b, may_tie))


def request_prompt(request: str, post_a: str, post_b: str, may_tie: bool) -> str:
    """The judge's prompt for two posts written for a request in free words."""
    return _request_template().render({"request": request} | _posts(post_a, post_b, may_tie))


@cache
def _request_template() -> PromptTemplate:
    file = Path(__file__).parent / "request.j2"
    return compiled(file.read_text(encoding="utf-8"), str(file))


def _posts(post_a: str, post_b: str, may_tie: bool) -> dict[str, object]:
    """Both posts without special tokens, and a fence that no post can contain, since it is a hash of both."""
    shown = {"post_a": broken_up(post_a), "post_b": broken_up(post_b)}
    return {**shown, "fence": short_hash(post_a, post_b), "may_tie": may_tie}


def _names(task: Task, brief: Brief) -> dict[str, object]:
    """The names that a template may use: plain data, since a template could call an object's methods."""
    kind, length = brief.post_type, task.spec.length_of(brief.post_type)
    return {
        "company": brief.company.model_dump(exclude={"products"}),
        "product": brief.product.model_dump(),
        "post_type": {"name": kind.name, "length": kind.length, "criteria": _criteria(kind.criteria)},
        "tone": brief.tone,
        "length": {**length.model_dump(), "text": length.text},
        "universal_criteria": _criteria(task.spec.universal_criteria),
    }


def _criteria(criteria: tuple[Criterion, ...]) -> list[dict[str, str]]:
    return [{"id": criterion.id, "text": criterion.text} for criterion in criteria]
