"""What to change when a gate does not pass or a teacher's replies are rejected: each reason's remedy, in one place.

In the texts `{teacher.…}`, `{student.…}` or `{judges}` stands for a key of the profile and `{quality.…}` for one of the
task; they are printed with their present value. The record that is kept is in `artifacts.explanation`.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from synthpost_dagster.artifacts.explanation import Explanation, ReasonCount
from synthpost_dagster.quality.result import GateResult

if TYPE_CHECKING:
    import pandas as pd

    from synthpost_dagster.profiles import Profile
    from synthpost_dagster.tasks.task import Task

MAX_EXAMPLES = 3
EXAMPLE_HEAD, EXAMPLE_TAIL = 110, 40
"""Characters that are shown of the beginning and of the end of a long text."""
MAX_VALUE_CHARACTERS = 60
_KEY = re.compile(r"\{([\w.]+)\}")
_EXAMPLE_COLUMNS = ("post", "raw_reply", "learned", "failure_case", "fault", "prompt_id")
"""Where the text of an example is taken from: the first of these that is not empty."""
_NEVER_SHOWN = ("personal_data",)
"""Gates whose rows are named, and their texts not repeated."""


class Remedy(NamedTuple):
    """What rejected replies have in common, as the rest of a sentence on them, and what to change."""

    found: str
    change: str

    @property
    def text(self) -> str:
        """Both, as they follow on “so many replies”."""
        return f"{self.found}; {self.change}"


_OTHER_WORDS = "reword prompts/teacher.j2 or change {teacher.model}"
_OTHER_CATALOG = "reword what both splits share in catalog.yaml, or raise {quality.leaked_words}"
REASONS: tuple[tuple[str, str, str], ...] = (
    ("truncated", "were cut off at {teacher.sampling.max_new_tokens}", "raise it"),
    (
        "reasoning|thought",
        "used up {teacher.sampling.max_new_tokens} on the model's reasoning",
        "raise it, or lower the model's reasoning effort",
    ),
    ("filter", "were held back by the endpoint's filter", _OTHER_WORDS),
    ("schema", "do not follow the JSON schema that was asked for", "change {teacher.structured_output}"),
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
    ("holdout", "show a holdout product", _OTHER_CATALOG),
    (
        "sentences",
        "have too few or too many sentences",
        "change `lengths` in task.yaml, or lower {quality.band_retries}",
    ),
    ("finish reason", "ended with an {reason}", "see what the endpoint's documentation says of it"),
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
"""A part of the reason of a rejected reply, as a regular expression, and its remedy; the first that fits."""


JUDGE_REASONS: tuple[tuple[str, str, str], ...] = (
    ("cut off", "were cut off at {judge.sampling.max_new_tokens}", "raise it"),
    (
        "reasoning",
        "used up {judge.sampling.max_new_tokens} on the judge's reasoning",
        "raise it, or lower the judge's reasoning effort",
    ),
    ("schema", "do not follow the JSON schema that was asked for", "change {judge.structured_output}"),
    ("refused|filter", "were {reason}", "reword prompts/judge.j2 or change {judge.model}"),
    ("", "were unscored as “{reason}”", "change {judge.model}, or reword prompts/judge.j2"),
)
"""As REASONS, of a judge's replies that could not be scored; `{judge.…}` is a key of the judge."""
MAX_UNSCORED = 0.2
"""Share of a judge's games; above it, the reasons are told."""


class GateRemedy(NamedTuple):
    """Of a gate: which of its figures is limited, the task's key that holds the limit, and what to change."""

    figure: str
    limit_key: str
    change: str


_FEWER_ROWS = "lower sweep.data_sizes in the profile, or add products to catalog.yaml"
_OTHER_JUDGE = "name another judge in {judges}"
GATES: dict[str, GateRemedy] = {
    "schema": GateRemedy("failures", "", "delete the artifact and make it again; if it comes back, report it"),
    "duplicates": GateRemedy("duplicates", "", "raise {teacher.sampling.temperature}"),
    "factor_coverage": GateRemedy("strata_off", "", _FEWER_ROWS),
    "near_duplicates": GateRemedy(
        "near_duplicate_share",
        "quality.max_near_duplicate_share",
        "raise {teacher.sampling.temperature} or {quality.max_near_duplicate_share}",
    ),
    "openings": GateRemedy(
        "commonest_opening", "", "raise {teacher.sampling.temperature} or {quality.max_opening_share}"
    ),
    "diversity": GateRemedy("", "", "raise {teacher.sampling.temperature}, or change quality.diversity in task.yaml"),
    "rejected_share": GateRemedy(
        "rejected_share",
        "quality.max_rejected_share",
        "raise {quality.max_rejected_share} or {teacher.max_replies_per_row}",
    ),
    "cleaning": GateRemedy(
        "cleaned_share", "quality.max_cleaned_share", "reword prompts/teacher.j2 or raise {quality.max_cleaned_share}"
    ),
    "sentence_band": GateRemedy(
        "out_of_band_share",
        "quality.max_out_of_band_share",
        "change `lengths` in task.yaml, or raise {quality.band_retries} or {quality.max_out_of_band_share}",
    ),
    "personal_data": GateRemedy("", "", "remove it from catalog.yaml, or correct {quality.phone_region}"),
    "leakage": GateRemedy("leaked_rows", "", _OTHER_CATALOG),
    "supervised_tokens": GateRemedy(
        "supervised_share", "", "check the chat template of {student.model}, or change {training.loss}"
    ),
    "forgetting": GateRemedy(
        "perplexity_ratio",
        "quality.max_perplexity_ratio",
        "lower {training.learning_rate} or sweep.steps, or raise {quality.max_perplexity_ratio}",
    ),
    "control_resampled": GateRemedy("", "", _OTHER_JUDGE),
    "control_empty": GateRemedy("", "", _OTHER_JUDGE),
    "control_shuffled": GateRemedy("", "", _OTHER_JUDGE),
}
"""Gate → its remedy, where no reason of rejected replies says more."""


def explained(result: GateResult, table: pd.DataFrame, task: Task, profile: Profile) -> Explanation | None:
    """Why a gate did not pass on a table; None where it passed."""
    if result.is_passed:
        return None
    remedy = GATES.get(result.name, GateRemedy("", "", "look at the rows at fault"))
    column = "prompt_id" if result.name in _NEVER_SHOWN else ""
    base = Explanation(
        figure=_finite(result.figures.get(remedy.figure)),
        limit=_value(remedy.limit_key, task, profile) if remedy.limit_key else None,
        limit_key=remedy.limit_key,
        examples=examples_of(result.offending, column),
        remedy=_with_values(remedy.change, task, profile),
    )
    if result.name not in ("factor_coverage", "rejected_share") or "status" not in table:
        return base
    rejected = explained_rejections(unanswered(table), task, profile)
    return rejected.model_copy(update=base.model_dump(include={"figure", "limit", "limit_key"})) if rejected else base


def unanswered(rows: pd.DataFrame) -> pd.DataFrame:
    """The rejected replies to prompts of which no reply was kept (schema SyntheticRows)."""
    kept = set(rows.loc[rows["status"] == "kept", "prompt_id"])
    return rows[~rows["prompt_id"].isin(kept)]


def explained_rejections(rejected: pd.DataFrame, task: Task, profile: Profile) -> Explanation | None:
    """The commonest reason of rejected replies in a sentence, all reasons with counts, examples; None without a row."""
    if rejected.empty:
        return None
    counts = {str(reason): int(count) for reason, count in rejected["reason"].value_counts().items()}
    remedies = {reason: reason_remedy(reason, task, profile) for reason in counts}
    top = next(iter(counts))
    return Explanation(
        cause=f"{counts[top]:,} of {len(rejected):,} rejected replies {remedies[top].text}",
        reasons=tuple(
            ReasonCount(reason=reason, count=count, remedy=remedies[reason].text) for reason, count in counts.items()
        ),
        examples=examples_of(rejected[rejected["reason"] == top]),
    )


def reason_remedy(reason: str, task: Task, profile: Profile) -> Remedy:
    """The remedy of a reason, its keys with their present values."""
    _, *texts = next(entry for entry in REASONS if re.search(entry[0], reason))
    found, change = (_with_values(text.replace("{reason}", reason), task, profile) for text in texts)
    return Remedy(found, change)


def explained_unscored(games: pd.DataFrame, task: Task, profile: Profile) -> list[Explanation]:
    """Why replies could not be scored, of each judge of whose games (schema Games) too many are unscored."""
    found = []
    for place, spec in enumerate(profile.judges):
        own = games[games["judge"] == spec.name]
        unscored = own[own["outcome"] == "unscored"]
        if len(unscored) <= MAX_UNSCORED * len(own):
            continue
        counts = {str(reason): int(count) for reason, count in unscored["reason"].value_counts().items()}
        texts = {reason: _judge_remedy(reason, place, task, profile) for reason in counts}
        top = next(iter(counts))
        share = f"{len(unscored):,} of {len(own):,} games of {spec.name} are unscored"
        found.append(
            Explanation(
                cause=f"{share}: {counts[top]:,} replies {texts[top]}",
                figure=len(unscored) / len(own),
                limit=MAX_UNSCORED,
                reasons=tuple(ReasonCount(reason=r, count=n, remedy=texts[r]) for r, n in counts.items()),
                examples=examples_of(unscored[unscored["reason"] == top], "raw_reply"),
            )
        )
    return found


def _judge_remedy(reason: str, place: int, task: Task, profile: Profile) -> str:
    _, *texts = next(entry for entry in JUDGE_REASONS if re.search(entry[0], reason))
    text = "; ".join(texts).replace("{reason}", reason).replace("{judge.", f"{{judges.{place}.")
    return _with_values(text, task, profile)


def examples_of(rows: pd.DataFrame, column: str = "") -> tuple[str, ...]:
    """Up to three different texts of the rows, shortened, in quotation marks; of rows without a text, their prompts."""
    columns = [name for name in ([column] if column else _EXAMPLE_COLUMNS) if name in rows]
    examples = (_example(row, columns) for _, row in rows.iterrows())
    return tuple(itertools.islice(dict.fromkeys(filter(None, examples)), MAX_EXAMPLES))


def _example(row: pd.Series, columns: list[str]) -> str:
    """The first text of the row that is not empty, in quotation marks; an empty string where there is none."""
    name, text = next(((name, text) for name in columns if (text := str(row[name]).strip())), ("", ""))
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
    value: Any = task.spec if path.startswith("quality.") else profile
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


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None
