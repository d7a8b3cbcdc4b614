"""Turns a template into a page that needs no network: styles and one script inside, named by its hash in the policy."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def render(template: str, context: dict[str, Any]) -> str:
    """The page as HTML, without a reference to anything outside it; the same text for the same context."""
    environment = Environment(
        loader=PackageLoader("synthpost_dagster", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"thousands": "{:,}".format}
    script = environment.get_template("_script.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"script": Markup(script), "script_hash": f"sha256-{digest}"}  # noqa: S704 - a template without values
    return printable(environment.get_template(template).render(context | parts))


def printable(text: str) -> str:
    """The text with a visible mark in place of control characters and halves of surrogate pairs."""
    return _UNPRINTABLE.sub("\ufffd", text)
