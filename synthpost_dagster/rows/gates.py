"""The gates on tables: schema, duplicates, factor coverage, rejected share, controls of the judge.

Each gate is a function of a table that says whether it passed, with its figure and the rows at fault. Stages write
the verdicts into the manifest, asset checks show them; both call `evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from synthpost_dagster.artifacts.store import GateEntry
from synthpost_dagster.judging.controls import CONTROLS, controlled
from synthpost_dagster.rows.prompts import shares, shuffled_strata
from synthpost_dagster.rows.replies import normalised
from synthpost_dagster.schemas import TABLES
from synthpost_dagster.tasks.loading import Task

if TYPE_CHECKING:
    import pandas as pd

PREVIEW_ROWS = 10
CONTROL_TEXTS = {
    "resampled": "the untuned model against itself, which must come out near 1",
    "empty": "an empty post against the untuned model's, which must lose",
    "shuffled": "tuned posts dealt to wrong prompts against those of these prompts, which must lose",
}


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict; `offending` holds at most ten of the rows at fault."""

    name: str
    is_passed: bool
    is_blocking: bool
    message: str
    figures: dict[str, float]
    offending: pd.DataFrame
    is_severe: bool = True

    @property
    def entry(self) -> GateEntry:
        """The verdict as a manifest keeps it."""
        return GateEntry(name=self.name, is_passed=self.is_passed, is_blocking=self.is_blocking, message=self.message)


class Gate(Protocol):
    """Judges a table of a task; `target` is the number of rows that was asked for."""

    def __call__(self, task: Task, table: pd.DataFrame, target: int) -> GateResult:
        """The verdict."""


def gate_names(asset: str) -> list[str]:
    """Names of the gates on an asset, in the order they run."""
    return list(_gates(asset))


def evaluate(
    asset: str, task: Task, table: pd.DataFrame, name: str | None = None, target: int | None = None
) -> list[GateResult]:
    """The verdicts of all gates on an asset's table, or of the one named.

    `target` is the number of rows that was asked for, where it is not the number of rows there. Where the schema does
    not hold, the other gates cannot be trusted to run, and only its verdict is given.
    """
    gates = _gates(asset)
    rows = len(table) if target is None else target
    schema = gates["schema"](task, table, rows)
    if name == "schema" or (name is None and not schema.is_passed):
        return [schema]
    if not schema.is_passed:
        return [_result(str(name), 1, f"not evaluated, because the schema does not hold: {schema.message}", table, {})]
    chosen = [gate for key, gate in gates.items() if key != "schema" and name in (None, key)]
    return ([schema] if name is None else []) + [gate(task, table, rows) for gate in chosen]


def _gates(asset: str) -> dict[str, Gate]:
    gates: dict[str, Gate] = {"schema": partial(_schema, asset)}
    if asset in ("synthetic_rows", "data_subsets"):
        gates["duplicates"] = _duplicates
    if asset in ("prompts", "evaluation_prompts", "synthetic_rows", "data_subsets"):
        gates["factor_coverage"] = _coverage
    if asset == "synthetic_rows":
        gates["rejected_share"] = _rejected_share
    if asset == "control_verdicts":
        gates |= {f"control_{name}": partial(_control, name) for name in CONTROLS}
    return gates


def is_blocking(name: str) -> bool:
    """Whether a gate that fails stops what is downstream; a failed control is shown, and the report made."""
    return not name.startswith("control_")


def _control(name: str, task: Task, table: pd.DataFrame, target: int) -> GateResult:
    """A comparison whose answer is known came out as it must."""
    found = next(result for result in controlled(table) if result.name == name)
    low, high = found.control.ratio.low, found.control.ratio.high
    message = (
        f"{CONTROL_TEXTS[name]}: {found.control.finding}; won {found.counts.wins}, lost {found.counts.losses}, tied "
        f"{found.counts.ties}, unscored {found.counts.unscored}; 95 % interval of the ratio {low:.2f} to {high:.2f}"
    )
    figures = {"wins": found.counts.wins, "losses": found.counts.losses, "ratio_low": low, "ratio_high": high}
    rows = table.head(0) if found.control.finding == "good" else table[table["opponent"] == name]
    shown = rows[["pair_id", "company", "product", "post_type", "outcome", "why", "raw_reply"]]
    return GateResult(
        f"control_{name}",
        found.control.finding == "good",
        is_blocking(f"control_{name}"),
        message,
        {key: float(value) for key, value in figures.items()},
        shown.head(PREVIEW_ROWS).reset_index(drop=True),
        found.control.finding == "untrusted",
    )


def _schema(asset: str, task: Task, table: pd.DataFrame, target: int) -> GateResult:
    import pandas as pd
    from pandera.errors import SchemaErrors

    try:
        TABLES[asset].validate(table, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        listed = pd.DataFrame({key: cases[key].astype(str) for key in ("column", "check", "failure_case", "index")})
        first = listed.iloc[0]
        where = f"column {first['column']}" if first["column"] != "None" else "the table"
        message = f"{len(listed)} values break the schema; first: {where}, {first['check']}: {first['failure_case']}"
        return _result("schema", len(listed), message, listed, {"failures": float(len(listed))})
    return _result("schema", 0, f"{len(table)} rows follow the schema", table.head(0), {"failures": 0.0})


def _duplicates(task: Task, table: pd.DataFrame, target: int) -> GateResult:
    kept = _kept(table)
    text = kept["post"].map(normalised)
    twice = kept[text.duplicated(keep=False)]
    count = int(text.duplicated().sum())
    message = f"{count} of {len(kept)} kept posts repeat another, apart from case, space and punctuation"
    return _result("duplicates", count, message, _shown(twice), {"duplicates": float(count)})


def _coverage(task: Task, table: pd.DataFrame, target: int) -> GateResult:
    """Every type × tone stratum has its share of the rows asked for, within one.

    The full size takes what was kept, so there a stratum may lack what was rejected; none may have too many.
    """
    kept = _kept(table)
    found = kept.groupby(["post_type", "tone"]).size().to_dict()
    strata = shuffled_strata(task)
    share = shares(strata, target)
    is_full = target >= task.training_prompts
    off = {s for s, due in share.items() if found.get(s, 0) > due + 1 or (found.get(s, 0) < due - 1 and not is_full)}
    at_fault = off | (set(found) - set(share))
    names = ", ".join(f"{kind} × {tone} ({found.get((kind, tone), 0)})" for kind, tone in sorted(at_fault)[:5])
    message = (
        f"{len(at_fault)} of {len(strata)} strata are more than one row off their share of {target} rows: {names}"
        if at_fault
        else f"{len(kept)} rows; each of {len(strata)} strata has its share of {target}, within one"
        + (" or less what was rejected" if is_full else "")
    )
    rows = kept[[stratum in at_fault for stratum in zip(kept["post_type"], kept["tone"], strict=True)]]
    return _result("factor_coverage", len(at_fault), message, _shown(rows), {"strata_off": float(len(at_fault))})


def _rejected_share(task: Task, table: pd.DataFrame, target: int) -> GateResult:
    last = table.sort_values("attempt").drop_duplicates("prompt_id", keep="last")
    rejected = last[last["status"] == "rejected"]
    share, limit = len(rejected) / max(1, len(last)), task.spec.quality.max_rejected_share
    message = f"{share:.1%} of the prompts stayed rejected; the limit is {limit:.0%} (quality.max_rejected_share)"
    return _result("rejected_share", int(share > limit), message, _shown(rejected), {"rejected_share": share})


def _kept(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "kept"] if "status" in table else table


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    columns = ["prompt_id", "company", "product", "post_type", "tone", "reason", "post"]
    return rows[[name for name in columns if name in rows]]


def _result(name: str, failures: int, message: str, rows: pd.DataFrame, figures: dict[str, float]) -> GateResult:
    return GateResult(name, failures == 0, True, message, figures, rows.head(PREVIEW_ROWS).reset_index(drop=True))
