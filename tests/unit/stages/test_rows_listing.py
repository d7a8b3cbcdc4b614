"""`synthpost rows` counts what was kept and rejected, names the remedy, and shows the rows that were asked for."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from synthpost_dagster.errors import SpecError
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.stages.rows_listing import Listing, as_json, listing, reasons_table, row_lines
from synthpost_dagster.stages.synthetic_rows import RowsFound
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import kept_rows


@pytest.fixture
def study(small_task: Task) -> Any:
    """What the listing needs of a study."""
    return SimpleNamespace(task=small_task, profile=load_profile("tiny", small_task))


def rows(task: Task) -> pd.DataFrame:
    """Five replies: two kept, two cut off, one empty."""
    table = kept_rows(task, ["One post.", "[bold]Two[/] posts.", "Half a", "Half b", ""])
    reasons = ["", "", "truncated", "truncated", "empty"]
    return table.assign(reason=reasons, status=["rejected" if reason else "kept" for reason in reasons])


def listed(study: Any, is_rejected: bool = False, reason: str | None = None, limit: int = 20) -> Listing:
    return listing(study, RowsFound(rows(study.task), None), is_rejected, reason, limit)


def printed(one: Listing) -> str:
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(reasons_table(one))
        for line in row_lines(one):
            console.print(line, soft_wrap=True)
    return capture.get()


def test_counts_cover_all_replies_whatever_is_shown(study: Any) -> None:
    one = listed(study, reason="empty", limit=0)
    assert (one.replies, one.kept, one.matching, len(one.rows)) == (5, 2, 1, 0)
    assert [(line.reason, line.replies, line.share) for line in one.reasons] == [
        ("truncated", 2, 0.4),
        ("empty", 1, 0.2),
    ]


def test_choice_of_rows_is_by_rejection_and_reason(study: Any) -> None:
    assert listed(study).matching == 5
    assert listed(study, is_rejected=True).matching == 3
    assert listed(study, reason="truncated").rows["post"].tolist() == ["Half a", "Half b"]


def test_reason_that_no_row_has_names_those_that_there_are(study: Any) -> None:
    with pytest.raises(SpecError, match="'truncated', 'empty'"):
        listed(study, reason="refusal")


def test_printed_rows_hold_reason_remedy_and_text_as_it_is(study: Any) -> None:
    text = printed(listed(study, limit=3))
    assert "teacher.sampling.max_new_tokens (320)" in text
    assert "rejected: truncated (finish reason stop, 3 tokens)" in text
    assert "“[bold]Two[/] posts.”" in text
    assert "3 of 5 rows shown; --limit shows more" in text


def test_json_holds_counts_and_whole_texts(study: Any) -> None:
    content = json.loads(as_json(listed(study, is_rejected=True, limit=1)))
    assert (content["kept"], content["replies"], content["matching"]) == (2, 5, 3)
    assert [row["post"] for row in content["rows"]] == ["Half a"]
