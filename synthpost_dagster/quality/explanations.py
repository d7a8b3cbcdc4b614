"""Why a gate failed or replies were rejected, and what to change.

In the texts, `{quality....}` and `{holdout....}` name keys of the task and any other `{...}` a key of the profile; both
are printed with their present value. The remedies of gates are in `quality.gates`, the record that is kept in
`artifacts.explanation`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from synthpost_dagster.artifacts.explanation import Explanation, ReasonCount
from synthpost_dagster.artifacts.manifest import GateEntry
from synthpost_dagster.quality.gates import GATES, LEAKAGE, PERSONAL_DATA, SCHEMA

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.profiles import Profile
    from synthpost_dagster.tasks.task import Task

MAX_EXAMPLES = 3
EXAMPLE_HEAD, EXAMPLE_TAIL = 110, 40
"""Characters of the beginning and of the end of a long text that are shown."""
MAX_VALUE_CHARACTERS = 60
_KEY = re.compile(r"\{([\w.]+)\}")
_EXAMPLE_COLUMNS = ("post", "raw_reply", "learned", "failure_case", "fault", "prompt_id")
"""Columns with the text of an example; the first that is not empty is used."""


_OTHER_WORDS = "reword prompts/teacher.j2 or change {teacher.model}"
REASONS: tuple[tuple[str, str, str], ...] = (
    ("truncated", "were cut off at {teacher.sampling.max_new_tokens}", "raise it"),
    (
        "reasoning|thought",
        "used up {teacher.sampling.max_new_tokens} on the model's reasoning",
        "raise it, or lower the model's reasoning effort",
    ),
    ("filter", "were held back by the endpoint's filter", _OTHER_WORDS),
    ("schema", "do not follow the requested JSON schema", "change {teacher.structured_output}"),
    ("refused by the endpoint", "were refused by the endpoint", "correct `teacher` in the profile as its message says"),
    ("refusal", "decline to write", _OTHER_WORDS),
    ("placeholder", "hold placeholders such as [Name]", _OTHER_WORDS),
    ("special token", "hold special tokens of a chat template", "serve {teacher.model} with its own chat template"),
    (
        "near-duplicate",
        "nearly repeat an earlier reply",
        "raise {teacher.sampling.temperature} or {quality.near_duplicate_jaccard}",
    ),
    ("duplicate", "repeat an earlier reply word for word", "raise {teacher.sampling.temperature}"),
    ("holdout", "show a holdout item", LEAKAGE.remedy),
    (
        "too few or too many",
        "have the wrong length",
        "change `lengths` in task.yaml, or lower {quality.band_retries}",
    ),
    ("finish reason", "ended with an {reason}", "look it up in the endpoint's documentation"),
    (
        "without an answer",
        "end after the model's reasoning, without an answer",
        "switch the model's reasoning off (teacher.model.chat_template_kwargs of a model in process, "
        "teacher.extra_body of an endpoint), or change {teacher.model}",
    ),
    ("part of another kind", "hold a {reason}", "change {teacher.model} to one that answers with text alone"),
    ("empty", "are empty", "check {teacher.model} and its chat template"),
    ("", "were rejected as “{reason}”", "look at them with `synthpost rows --rejected`"),
)
"""Regular expression of a reason of rejection, what was found, what to change; the first match applies."""

JUDGE_REASONS: tuple[tuple[str, str, str], ...] = (
    ("cut off", "were cut off at {judge.sampling.max_new_tokens}", "raise it"),
    (
        "reasoning",
        "used up {judge.sampling.max_new_tokens} on the judge's reasoning",
        "raise it, or lower the judge's reasoning effort",
    ),
    ("schema", "do not follow the requested JSON schema", "change {judge.structured_output}"),
    ("refused|filter", "were {reason}", "reword prompts/judge.j2 or change {judge.model}"),
    ("", "were unscored as “{reason}”", "change {judge.model}, or reword prompts/judge.j2"),
)
"""The same for replies of a judge that could not be scored; `{judge....}` names a key of the judge."""
MAX_UNSCORED = 0.2
"""Share of a judge's games; above it, the reasons are reported."""


def explained(entry: GateEntry, table: pd.DataFrame, task: Task, profile: Profile) -> Explanation | None:
    """Why a gate failed on a table; None where it passed. Texts with personal data are not repeated."""
    if entry.is_passed:
        return None
    gate = next(gate for gates in (*GATES.values(), (SCHEMA,)) for gate in gates if gate.name == entry.name)
    limit_key = f"quality.{gate.limit}" if gate.limit else ""
    base = Explanation(
        figure=entry.figures.get(gate.figure),
        limit=_value(limit_key, task, profile) if limit_key else None,
        limit_key=limit_key,
        examples=examples_of(entry.offending, "prompt_id" if gate is PERSONAL_DATA else ""),
        remedy=_with_values(gate.remedy, task, profile),
    )
    if gate.name not in ("factor_coverage", "rejected_share") or "status" not in table:
        return base
    rejected = explained_rejections(unanswered(table), task, profile)
    return rejected.model_copy(update=base.model_dump(include={"figure", "limit", "limit_key"})) if rejected else base


def unanswered(rows: pd.DataFrame) -> pd.DataFrame:
    """The rejected replies to prompts of which no reply was kept (schema SyntheticRows)."""
    kept = set(rows.loc[rows["status"] == "kept", "prompt_id"])
    return rows[~rows["prompt_id"].isin(kept)]


def explained_rejections(rejected: pd.DataFrame, task: Task, profile: Profile) -> Explanation | None:
    """The most frequent reason of rejected replies in a sentence, all reasons, and examples; None without a row."""
    if rejected.empty:
        return None
    remedy_of = partial(reason_remedy, task=task, profile=profile)
    return _explanation(rejected, f"{{count:,}} of {len(rejected):,} rejected replies", remedy_of)


def explained_unscored(games: pd.DataFrame, task: Task, profile: Profile) -> list[Explanation]:
    """Why replies could not be scored, for each judge that left too many of its games (schema Games) unscored."""
    found = []
    for place, spec in enumerate(profile.judges):
        own = games[games["judge"] == spec.name]
        unscored = own[own["outcome"] == "unscored"]
        if len(unscored) <= MAX_UNSCORED * len(own):
            continue
        own_key = f"{{judges.{place}."
        reasons = [
            (part, what.replace("{judge.", own_key), change.replace("{judge.", own_key))
            for part, what, change in JUDGE_REASONS
        ]
        remedy_of = partial(reason_remedy, task=task, profile=profile, reasons=reasons)
        start = f"{len(unscored):,} of {len(own):,} games of {spec.name} are unscored: {{count:,}} replies"
        why = _explanation(unscored, start, remedy_of, "raw_reply")
        found.append(why.model_copy(update={"figure": len(unscored) / len(own), "limit": MAX_UNSCORED}))
    return found


def reason_remedy(reason: str, task: Task, profile: Profile, reasons: Iterable[tuple[str, str, str]] = REASONS) -> str:
    """What replies rejected for this reason have in common and what to change, as they follow “5 of 8 replies”."""
    _, *texts = next(entry for entry in reasons if re.search(entry[0], reason))
    return "; ".join(_with_values(text.replace("{reason}", reason), task, profile) for text in texts)


def _explanation(rows: pd.DataFrame, start: str, remedy_of: Callable[[str], str], column: str = "") -> Explanation:
    """The most frequent reason in a sentence that begins with `start`, all reasons with counts, and examples."""
    counts = {str(reason): int(count) for reason, count in rows["reason"].value_counts().items()}
    texts = {reason: remedy_of(reason) for reason in counts}
    top = next(iter(counts))
    return Explanation(
        cause=f"{start.format(count=counts[top])} {texts[top]}",
        reasons=tuple(ReasonCount(reason=name, count=count, remedy=texts[name]) for name, count in counts.items()),
        examples=examples_of(rows[rows["reason"] == top].to_dict("records"), column),
    )


def examples_of(rows: Iterable[Mapping[Any, Any]], column: str = "") -> tuple[str, ...]:
    """Up to three different texts of the rows, shortened, in quotation marks; of rows without a text, their prompts."""
    examples = (_example(row, [column] if column else _EXAMPLE_COLUMNS) for row in rows)
    return tuple(itertools.islice(dict.fromkeys(filter(None, examples)), MAX_EXAMPLES))


def _example(row: Mapping[Any, Any], columns: Sequence[str]) -> str:
    name, text = next(((name, text) for name in columns if (text := str(row.get(name, "")).strip())), ("", ""))
    return f"prompt {text}" if name == "prompt_id" else f"“{shortened(text)}”" if text else ""


def shortened(text: str, head: int = EXAMPLE_HEAD, tail: int = EXAMPLE_TAIL) -> str:
    """A text in one line of printable characters, its middle left out where it is long."""
    line = "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
    if len(line) <= head + tail + 3:
        return line
    return f"{line[:head]} … {line[-tail:]}" if tail else f"{line[:head]} …"


def _with_values(text: str, task: Task, profile: Profile) -> str:
    return _KEY.sub(lambda match: f"{match[1]} ({_shown(_value(match[1], task, profile))})", text)


def _value(path: str, task: Task, profile: Profile) -> Any:
    """The present value of a key; None where the profile's kind of model has no such key."""
    value: Any = task.spec if path.startswith(("quality.", "holdout.")) else profile
    for name in path.split("."):
        value = value[int(name)] if isinstance(value, tuple) else getattr(value, name, None)
    return value


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_shown(one) for one in value)
    if isinstance(value, BaseModel):
        return str(getattr(value, "model", None) or getattr(value, "backend", ""))
    if isinstance(value, str):
        return shortened(value, MAX_VALUE_CHARACTERS, 0)
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
