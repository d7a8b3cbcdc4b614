"""Renders a template to a page that needs no network: it holds its styles and one script, whose hash is in its policy.

Numbers become strings in the filters registered here (`report.texts`), and nowhere else.
"""

import base64
import hashlib
import math
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from synthpost_dagster.cell import steps_label
from synthpost_dagster.report import texts
from synthpost_dagster.schemas import OPPONENTS, OUTCOMES

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_FILTERS = {
    # The function `number_text` of `report.texts` is the filter `number`, and so on.
    **{name.removesuffix("_text"): found for name, found in vars(texts).items() if name.endswith("_text")},
    "thousands": "{:,.0f}".format,
    "ratio": lambda found: texts.ratio_text(*found),
    "interval": lambda found: texts.interval_text(found[-2], found[-1]),
    "p_value": texts.p_text,
    "counted": texts.counted,
    "words": lambda name: name.replace("_", " "),
    "sentence": lambda text: text[:1].upper() + text[1:],
    "steps": steps_label,
    "exp": math.exp,
    "names": texts.listed,
}
_GLOBALS = {
    "names": texts.CONTESTANT_NAMES,
    "factors": texts.FACTOR_NAMES,
    "metrics": texts.METRIC_NAMES,
    "opponents": OPPONENTS,
    "outcomes": OUTCOMES,
}


def render(template: str, context: dict[str, Any]) -> str:
    """The page as HTML, without a reference to anything outside it; the same text for the same context."""
    environment = Environment(
        loader=PackageLoader("synthpost_dagster", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    environment.globals |= _GLOBALS
    script = environment.get_template("_script.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"script": Markup(script), "script_hash": f"sha256-{digest}"}  # noqa: S704 - a template without values
    return printable(environment.get_template(template).render(context | parts))


def printable(text: str) -> str:
    """The text with a visible mark in place of control characters and halves of surrogate pairs."""
    return _UNPRINTABLE.sub("\ufffd", text)
