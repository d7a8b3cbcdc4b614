"""The command `journal`, on a home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from synthpost_dagster.cli import main
from synthpost_dagster.errors import BudgetReached, SpecError
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.llm.journal_tables import note_loss


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder; what the command puts into the environment is undone."""
    for name in ("DAGSTER_HOME", "SYNTHPOST_HOME", "SYNTHPOST_TASK", "SYNTHPOST_PROFILE"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("SYNTHPOST_JOURNAL", raising=False)
    return tmp_path


def output_of(home: Path, *arguments: str) -> str:
    return " ".join(CliRunner().invoke(main, ["journal", "--home", str(home), *arguments]).output.split())


def test_a_statement_of_what_was_spent_opens_a_budget(home: Path) -> None:
    journal = Journal(f"sqlite:///{home / 'journal.sqlite'}")
    with journal.holder("paid", 5.0) as holder:
        with journal.begin() as connection:
            note_loss(connection)
        with pytest.raises(BudgetReached):
            holder.reserve(1.0)
        assert "were lost for paid." in output_of(home)
        output = output_of(home, "--spent", "paid=3.5")
        assert "paid: spending set to $3.5000" in output
        assert "were lost" not in output
        assert holder.reserve(1.5)
        assert not holder.reserve(0.1)
    vars(journal)["_engine"].dispose()


@pytest.mark.parametrize("text", ["paid", "=3", "paid=", "paid=-1", "paid=nan", "paid=inf", "paid=x"])
def test_a_statement_without_name_or_dollars_is_refused(home: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"--spent: .* is not NAME=DOLLARS"):
        CliRunner().invoke(main, ["journal", "--home", str(home), "--spent", text], catch_exceptions=False)
