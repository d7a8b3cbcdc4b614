"""Tables that people open in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest

from synthpost_dagster.report.tables import to_csv


def cells(table: pd.DataFrame) -> list[list[str]]:
    return list(csv.reader(io.StringIO(to_csv(table))))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")', "=1,2"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert cells(pd.DataFrame({"post": [text], "n": [1]})) == [["post", "n"], [f"'{text}", "1"]]


@pytest.mark.parametrize(
    "text", ["plain", "a=b", "1-epoch", "", "größe 🎉", 'say "hi", now', "two\nlines", "two\r=1", "'quoted"]
)
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert cells(pd.DataFrame({"post": [text], "n": [1]}))[1] == [text, "1"]


def test_numbers_stay_numbers() -> None:
    table = pd.DataFrame({"a": [-1.5, float("inf")], "b": [-3, 4], "c": [True, False]})
    assert cells(table) == [["a", "b", "c"], ["-1.5", "-3", "True"], ["inf", "4", "False"]]
