"""Gates on structure: the schema, the coverage of the strata, and the controls of the judge."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from synthpost_dagster.judging.controls import controlled
from synthpost_dagster.quality.result import Finding, finding, kept, shown
from synthpost_dagster.rows.prompts import shares, strata_in
from synthpost_dagster.schemas import TABLES, schema_of
from synthpost_dagster.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

CONTROL_TEXTS = {
    "resampled": "the untuned model against itself, which must come out near 1",
    "empty": "an empty post against the untuned model's, which must lose",
    "shuffled": "tuned posts of other prompts against the tuned post of the prompt, which must lose",
}


def schema(asset: str, task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Types, ranges, allowed levels, unique ids, no nulls."""
    import pandas as pd
    from pandera.errors import SchemaErrors

    try:
        schema_of(TABLES[asset], task.spec.prompt_columns).validate(table, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        listed = pd.DataFrame({key: cases[key].astype(str) for key in ("column", "check", "failure_case", "index")})
        first = listed.iloc[0]
        where = f"column {first['column']}" if first["column"] != "None" else "the table"
        message = f"{len(listed)} values break the schema; first: {where}, {first['check']}: {first['failure_case']}"
        return finding(False, message, listed, failures=float(len(listed)))
    return finding(True, f"{len(table)} rows follow the schema", table.head(0), failures=0.0)


def factor_coverage(split: str, task: Task, table: pd.DataFrame, target: int) -> Finding:
    """Every stratum has its share of the rows requested, within one.

    The full data size takes all kept rows, so there a stratum may lack up to quality.max_rejected_share of its share.
    """
    rows = kept(table)
    here = strata_in(task, rows)
    found = Counter(here)
    share = shares(task.capacities(split), target)
    is_full = target >= task.training_prompts
    spared = task.spec.quality.max_rejected_share if is_full else 0.0
    off = {s for s, due in share.items() if not due * (1 - spared) - 1 <= found[s] <= due + 1}
    at_fault = off | (set(found) - set(share))
    names = ", ".join(f"{' × '.join(stratum)} ({found[stratum]})" for stratum in sorted(at_fault)[:5])
    message = (
        f"{len(at_fault)} of {len(share)} strata are more than one row off their share of {target} rows: {names}"
        if at_fault
        else f"{len(rows)} rows; each of {len(share)} strata has its share of {target}, within one"
        + (" or less what was rejected" if is_full else "")
    )
    named = rows[[stratum in at_fault for stratum in here]]
    return finding(not at_fault, message, shown(task, named), strata_off=float(len(at_fault)))


def control(name: str, task: Task, table: pd.DataFrame, target: int) -> Finding:
    """A comparison with a known answer has that result."""
    found = next(result for result in controlled(table) if result.name == name)
    low, high = found.control.ratio.low, found.control.ratio.high
    message = (
        f"{CONTROL_TEXTS[name]}: {found.control.finding}; won {found.counts.wins}, lost {found.counts.losses}, tied "
        f"{found.counts.ties}, unscored {found.counts.unscored}; 95 % interval of the ratio {low:.2f} to {high:.2f}"
    )
    figures = {"wins": found.counts.wins, "losses": found.counts.losses, "ratio_low": low, "ratio_high": high}
    is_good = found.control.finding == "good"
    rows = table.head(0) if is_good else table[table["opponent"] == name]
    columns = ["pair_id", *task.spec.prompt_columns, "outcome", "why", "raw_reply"]
    return Finding(is_good, message, rows[columns], figures, is_severe=found.control.finding == "untrusted")
