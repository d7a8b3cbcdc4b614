"""Turns a brief (company, product, post type, tone) into the prompts of teacher, student and judge, and into its id."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Template

from synthpost_dagster.special_tokens import broken_up
from synthpost_dagster.tasks.loading import Task, compiled
from synthpost_dagster.tasks.spec import Company, PostType, Product


class Brief(NamedTuple):
    """What one post is to be written for."""

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
    return task.template(role).render(**_names(task, brief)).strip()


def judge_prompt(task: Task, brief: Brief, post_a: str, post_b: str, may_tie: bool) -> str:
    """The judge's prompt for two posts in neutral slots."""
    return task.template("judge").render(**_names(task, brief), **_slots(post_a, post_b, may_tie)).strip()


def request_prompt(request: str, post_a: str, post_b: str, may_tie: bool) -> str:
    """The judge's prompt for two posts that were written for a request in free words, not for a brief of a task."""
    return _request_template().render(request=request, **_slots(post_a, post_b, may_tie)).strip()


@cache
def _request_template() -> Template:
    return compiled((Path(__file__).parent / "request.j2").read_text(encoding="utf-8"))


def _slots(post_a: str, post_b: str, may_tie: bool) -> dict[str, object]:
    """Both posts without special tokens, with a fence around them that no post can hold, since it is a hash of them."""
    shown = {"post_a": broken_up(post_a), "post_b": broken_up(post_b)}
    return {**shown, "fence": short_hash(post_a, post_b), "may_tie": may_tie}


def _names(task: Task, brief: Brief) -> dict[str, object]:
    return {
        "company": brief.company,
        "product": brief.product,
        "post_type": brief.post_type,
        "tone": brief.tone,
        "length": task.spec.length_of(brief.post_type),
        "universal_criteria": task.spec.universal_criteria,
    }
