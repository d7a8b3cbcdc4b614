"""Where the output is no terminal, whole lines are written; the cells' table shows every cell."""

from __future__ import annotations

import io
import math
import re

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from synthpost_dagster import console as terminal
from synthpost_dagster.console import Terminal, cells_table, comparison_table
from synthpost_dagster.report.texts import ratio_text
from synthpost_dagster.runtime.progress import Event
from synthpost_dagster.statistics.comparison import compare


def pipe() -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(Console(file=out, force_terminal=False, width=120, highlight=False)), out


def row(
    steps: str, opponent: str, counts: tuple[int, int, int, int], ratio: tuple[float, float, float]
) -> dict[str, object]:
    return {
        "data_size": 1760,
        "seed": 3407,
        "steps": steps,
        "optimizer_steps": 220 if "epoch" in steps else int(steps),
        "opponent": opponent,
        "factor": "all",
        **dict(zip(("wins", "losses", "ties", "unscored"), counts, strict=True)),
        **dict(zip(("win_ratio", "win_ratio_low", "win_ratio_high"), ratio, strict=True)),
    }


def printed(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=140, force_terminal=False).print(table)
    return out.getvalue()


def shown(table: pd.DataFrame) -> str:
    return printed(cells_table(table))


def left_on(written: str) -> list[str]:
    """The lines that stand on a terminal in the end, where what was written moves up and clears lines."""
    lines: list[str] = [""]
    row = 0
    for part in re.findall(r"\x1b\[[0-9?;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b") and part != "\r":
            lines[row] += part
    return lines


def test_pipe_gets_whole_lines_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "QUIET_SECONDS", 0.0)
    screen, out = pipe()
    screen.started("cell 88|50")
    screen.heard(Event("training", 16, 50, "steps"))
    screen.finished("cell 88|50")
    screen.reused("cell 88|150")
    screen.close()
    text = out.getvalue()
    lines = text.splitlines()
    assert lines[0].strip() == "cell 88|50 …"
    assert all(part in lines[1] for part in ("cell 88|50", "training", "16 of 50 steps"))
    assert lines[2].startswith("✓ cell 88|50 (")
    assert lines[3] == "✓ cell 88|150 (up to date)"
    assert "\x1b" not in text
    assert "\r" not in text


def test_pipe_is_not_flooded_with_progress() -> None:
    screen, out = pipe()
    screen.started("cell 88|50")
    for done in range(50):
        screen.heard(Event("training", done, 50, "steps"))
    assert len(out.getvalue().splitlines()) == 2


def test_milestone_has_its_own_line_in_a_pipe() -> None:
    screen, out = pipe()
    screen.started("sweep")
    for done in range(1, 4):
        screen.heard(Event("trained", done, 3, "adapters", is_milestone=True))
    assert [line.strip() for line in out.getvalue().splitlines()[1:]] == [
        f"sweep: trained: {done} of 3 adapters" for done in range(1, 4)
    ]


def test_terminal_shows_a_bar_in_place_and_is_left_clean() -> None:
    out = io.StringIO()
    screen = Terminal(Console(file=out, force_terminal=True, width=100))
    screen.started("cell 88|50")
    screen.heard(Event("training", 16, 50, "steps"))
    screen.close()
    assert "16 of 50 steps" in out.getvalue()
    assert out.getvalue().count("\x1b[?25h") == out.getvalue().count("\x1b[?25l") == 1


def test_concurrent_runs_have_a_bar_each() -> None:
    out = io.StringIO()
    screen = Terminal(Console(file=out, force_terminal=True, width=100, color_system=None))
    screen.started("sweep, 1 of 2")
    screen.started("sweep, 2 of 2")
    screen.heard(Event("88|50 training", 16, 50, "steps"), "sweep, 1 of 2")
    screen.heard(Event("176|50 training", 3, 50, "steps"), "sweep, 2 of 2")
    screen.heard(Event("the device is held by another process", 0, 0, ""), "sweep, 1 of 2")
    screen.failed("sweep, 2 of 2")
    screen.finished("sweep, 1 of 2")
    screen.close()
    assert all(count in out.getvalue() for count in ("16 of 50 steps", "3 of 50 steps"))
    final = [line.partition(" (")[0].strip() for line in left_on(out.getvalue()) if line.strip()]
    assert final == [
        "sweep, 1 of 2: the device is held by another process",
        "✗ sweep, 2 of 2 failed",
        "✓ sweep, 1 of 2",
    ]


def test_cells_table_has_every_cell_against_each_baseline() -> None:
    table = pd.DataFrame(
        [
            row("50", "base", (81, 14, 3, 2), (81 / 14, 3.3, 11.1)),
            row("1-epoch", "prompted", (100, 0, 0, 0), (math.inf, 26.6, math.inf)),
            row("150", "base", (0, 0, 95, 0), (math.nan, math.nan, math.nan)),
            {**row("50", "base", (1, 1, 1, 1), (1, 0.1, 9)), "factor": "tone"},
        ]
    )
    lines = [line for line in shown(table).splitlines() if "1,760" in line]
    assert len(lines) == 3
    for line, parts in (
        (lines[0], ["50 steps", "base", " 81 ", " 14 ", " 3 ", " 2 ", ratio_text(81 / 14, 3.3, 11.1)]),
        (lines[1], ["1-epoch (220)", "prompted", " 100 ", ratio_text(math.inf, 26.6, math.inf)]),
        (lines[2], ["150 steps", "base", " 95 ", ratio_text(math.nan, math.nan, math.nan)]),
    ):
        assert [part for part in parts if part not in line] == []


def test_seed_is_a_column_where_there_are_several() -> None:
    first = row("50", "base", (81, 14, 3, 2), (81 / 14, 3.3, 11.1))
    assert "seed" not in shown(pd.DataFrame([first]))
    text = shown(pd.DataFrame([first, {**first, "seed": 7}]))
    assert "seed" in text
    lines = [line.split() for line in text.splitlines() if "1,760" in line]
    assert [line[3] for line in lines] == ["3407", "7"]


def test_study_mode_is_said_over_both_tables() -> None:
    cells = pd.DataFrame([row("50", "base", (81, 14, 3, 2), (81 / 14, 3.3, 11.1))])
    compared = compare(["win", "loss"])
    for plain, marked in (
        (cells_table(cells), cells_table(cells, is_study_mode=True)),
        (comparison_table(compared), comparison_table(compared, is_study_mode=True)),
    ):
        assert "study mode" not in printed(plain)
        assert "win ratio (study mode: one order)" in printed(marked)
        assert "study mode: one order" in printed(marked).splitlines()[0]
