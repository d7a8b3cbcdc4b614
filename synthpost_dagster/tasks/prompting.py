"""Turns a brief (company, product, post type, tone) into the prompts of teacher, student and judge, and into its id."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from jinja2 import Template

from synthpost_dagster.tasks.loading import Task
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


def render_prompt(task: Task, role: str, brief: Brief, template: Template | None = None) -> str:
    """The `teacher` or `student` prompt of a brief. Pass `template` to render many without compiling each time."""
    return (template or task.template(role)).render(**_names(task, brief)).strip()


def judge_prompt(task: Task, brief: Brief, post_a: str, post_b: str, template: Template | None = None) -> str:
    """The judge's prompt for two posts in neutral slots.

    The fence that marks where a post begins and ends is a hash of the posts, so that no post can hold it.
    """
    posts = {"post_a": post_a, "post_b": post_b, "fence": short_hash(post_a, post_b)}
    return (template or task.template("judge")).render(**_names(task, brief), **posts).strip()


def _names(task: Task, brief: Brief) -> dict[str, object]:
    return {
        "company": brief.company,
        "product": brief.product,
        "post_type": brief.post_type,
        "tone": brief.tone,
        "length": task.spec.length_of(brief.post_type),
        "universal_criteria": task.spec.universal_criteria,
    }
