"""Standard output in other encodings than UTF-8 replaces missing characters by similar ones."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from synthpost_dagster.console import Terminal, cells_table, finding_line
from synthpost_dagster.runtime.output import PLAIN, show_any_text
from synthpost_dagster.runtime.progress import Event
from synthpost_dagster.stages.doctor import Finding


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "ok Cafe ?? 1 x 2... x"), ("latin-1", "ok Café ?? 1 × 2... x")]
)
def test_characters_missing_in_the_encoding_are_replaced(encoding: str, shown: str) -> None:
    show_any_text()
    assert "✓ Café 日本 1 × 2… ✗".encode(encoding, PLAIN).decode(encoding) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_terminal_output_works_in_any_encoding(encoding: str, is_terminal: bool) -> None:
    show_any_text()
    out = io.TextIOWrapper(io.BytesIO(), encoding, errors=PLAIN, write_through=True)
    screen = Terminal(Console(file=out, force_terminal=is_terminal, width=100, color_system=None, highlight=False))
    screen.started("cell 88|50")
    screen.heard(Event("training “Café” …", 16, 50, "steps"))
    screen.heard(Event("training “Café” …", 17, 50, "steps"))
    screen.heard(Event("the device is held by “Zoë’s” process", 0, 0, ""))
    screen.finished("cell 88|50")
    screen.reused("cell 日本")
    screen.console.print(finding_line(Finding("home", False, "∞ ≥ 2 GiB")))
    screen.console.print(cells_table(pd.DataFrame([ROW])))
    screen.close()
    written = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "16 of 50 steps" in written or is_terminal
    for part in ("ok cell 88|50", "Zo", "x home", "inf", "14"):
        assert part in written, part


ROW = {
    "data_size": 88,
    "seed": 1,
    "steps": "50",
    "optimizer_steps": 50,
    "opponent": "base",
    "factor": "all",
    "wins": 103,
    "losses": 2,
    "ties": 5,
    "unscored": 0,
    "win_ratio": 52.0,
    "win_ratio_low": 14.0,
    "win_ratio_high": float("inf"),
}
