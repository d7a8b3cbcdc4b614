"""What `synthpost rows` prints: kept replies, reasons of rejection with remedies, then the rows.

`stages.synthetic_rows` finds the rows, `quality.explanations` the remedies.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from synthpost_dagster.errors import SpecError
from synthpost_dagster.quality.explanations import reason_remedy, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from synthpost_dagster.stages.study import Study
    from synthpost_dagster.stages.synthetic_rows import RowsFound

TEXT_HEAD, TEXT_TAIL = 240, 80
"""Characters shown from the start and the end of a reply."""
_SHOWN = ["attempt", "status", "reason", "finish_reason", "completion_tokens", "post", "raw_reply"]


class ReasonLine(NamedTuple):
    """Replies rejected for one reason: their number, their share of all replies, and the remedy."""

    reason: str
    replies: int
    share: float
    remedy: str


class Listing(NamedTuple):
    """The source of the rows, the counts over all of them, and the first of the `matching` rows.

    `columns` are those of the task: id of the prompt, group, item, factors, length.
    """

    columns: tuple[str, ...]
    source: str
    replies: int
    kept: int
    reasons: tuple[ReasonLine, ...]
    matching: int
    rows: pd.DataFrame


def listing(study: Study, found: RowsFound, is_rejected: bool, reason: str | None, limit: int) -> Listing:
    """The counts over all rows, and the first `limit` of the chosen ones.

    Raises SpecError for a reason that no row has.
    """
    table = found.table
    counts = table.loc[table["reason"] != "", "reason"].value_counts()
    if reason is not None and reason not in counts.index:
        known = ", ".join(f"{name!r}" for name in counts.index) or "none: every reply was kept"
        raise SpecError(f"--reason: no row was rejected as {reason!r}; the reasons are {known}")
    chosen = table[table["reason"] == reason] if reason else table[table["reason"] != ""] if is_rejected else table
    lines = tuple(
        ReasonLine(str(name), int(count), count / len(table), reason_remedy(str(name), study.task, study.profile))
        for name, count in counts.items()
    )
    kept = len(table) - int(counts.sum())
    return Listing(
        study.task.spec.prompt_columns, _source(found), len(table), kept, lines, len(chosen), chosen.head(limit)
    )


def _source(found: RowsFound) -> str:
    if found.manifest is None:
        return "replies in the journal; no table holds them yet"
    failed = ", ".join(gate.name for gate in found.manifest.failed_gates)
    return f"synthetic_rows of {found.manifest.made_at[:19]} UTC" + (f", which failed {failed}" if failed else "")


def reasons_table(listed: Listing) -> Table:
    """Replies kept and rejected, by reason."""
    table = Table(title=f"Replies ({listed.source})", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("replies", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("cause; what to change", overflow="fold")
    table.add_row("kept", f"{listed.kept:,}", f"{listed.kept / listed.replies:.1%}", "")
    for line in listed.reasons:
        table.add_row(Text(line.reason), f"{line.replies:,}", f"{line.share:.1%}", Text(line.remedy))
    return table


def row_lines(listed: Listing) -> Iterator[Text]:
    """Two lines a row: its prompt and verdict, then the shortened text."""
    for row in listed.rows.itertuples():
        verdict = Text(f"rejected: {row.reason}", style="red") if row.reason else Text("kept", style="green")
        about = ", ".join(getattr(row, name) for name in listed.columns if name != "prompt_id")
        head = Text(f"{row.prompt_id}, attempt {row.attempt + 1}: {about}: ")
        tokens = f" (finish reason {row.finish_reason}, {row.completion_tokens:,} tokens)"
        yield head.append_text(verdict).append(tokens)
        yield Text(f"  “{shortened(row.post or row.raw_reply, TEXT_HEAD, TEXT_TAIL)}”", style="dim")
    if len(listed.rows) < listed.matching:
        yield Text(f"{len(listed.rows):,} of {listed.matching:,} rows shown; --limit shows more")


def as_json(listed: Listing) -> str:
    """The counts, and the chosen rows with their full texts."""
    rows: list[dict[str, Any]] = json.loads(listed.rows[[*listed.columns, *_SHOWN]].to_json(orient="records"))
    content = {name: value for name, value in listed._asdict().items() if name != "columns"} | {
        "reasons": [line._asdict() for line in listed.reasons],
        "rows": rows,
    }
    return json.dumps(content, indent=1)
