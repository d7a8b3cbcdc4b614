"""Tests that the figures draw every case the tables can hold, legibly and reproducibly."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pandas as pd
import pytest

from synthpost_dagster.cell import Cell, steps_label
from synthpost_dagster.report import figures
from synthpost_dagster.report.data import Training
from tests.helpers.reports import kinds_of

NO_ROWS = pd.DataFrame(
    columns=["data_size", "steps", "seed", "optimizer_steps", "opponent", "factor", "wins", "losses"]
)


def ratio_row(cell: Cell, opponent: str, wins: int, losses: int, low: float, high: float) -> dict[str, object]:
    return {
        "data_size": cell.data_size,
        "steps": cell.steps,
        "seed": 1,
        "optimizer_steps": cell.data_size // 8 if "-" in cell.steps else int(cell.steps),
        "opponent": opponent,
        "factor": "all",
        "wins": wins,
        "losses": losses,
        "win_ratio_low": low,
        "win_ratio_high": high,
    }


def ratios() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ratio_row(Cell(176, "1-epoch"), "base", 60, 12, 2.7, 10.2),
            ratio_row(Cell(88, "50"), "base", 81, 14, 3.3, 11.1),
            ratio_row(Cell(88, "50"), "prompted", 40, 44, 0.58, 1.42),
            ratio_row(Cell(176, "50"), "base", 100, 0, 26.6, math.inf),
            ratio_row(Cell(176, "50"), "prompted", 0, 9, 0.0, 0.51),
            ratio_row(Cell(88, "1-epoch"), "base", 0, 0, math.nan, math.nan),
        ]
    )


def run(data_size: int, steps: str, losses: list[float]) -> Training:
    curve = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses, "learning_rate": 2e-4})
    return Training(Cell(data_size, steps), 1, 97.0, 6.2, "one GPU", curve, kinds_of())


def shares(criterion: str = "hook") -> pd.DataFrame:
    rows = [
        (0, "", "base", criterion, 10, 2),
        (0, "", "prompted", criterion, 10, 8),
        (88, "50", "tuned", criterion, 10, 7),
    ]
    return pd.DataFrame(rows, columns=["data_size", "steps", "contestant", "criterion", "posts", "met"])


def texts(svg: str) -> list[str]:
    """Every text of a figure; fails where the figure is not well-formed."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def every_figure() -> dict[str, str]:
    return {
        "all_cells": figures.all_cells(ratios()),
        "ratio_by_size": figures.ratio_by_size(ratios()),
        "ratio_by_length": figures.ratio_by_length(ratios()),
        "loss_curves": figures.loss_curves([run(88, "50", [2.0, 1.5, 1.2])]),
        "compliance": figures.compliance(shares(), ["hook"], Cell(88, "50")),
    }


def test_cell_is_named_by_key_and_in_words() -> None:
    assert Cell(1760, "1-epoch").key == "1760|1-epoch"
    assert Cell(1760, "1-epoch").label == "1,760 rows | 1 epoch"
    assert Cell(88, "50").label == "88 rows | 50 steps"
    assert steps_label("5-epoch") == "5 epochs"
    assert steps_label("1") == "1 step"


def test_cells_are_drawn_in_sweep_order_whatever_the_order_of_the_table() -> None:
    named = [text for text in texts(figures.all_cells(ratios())) if "rows |" in text]
    assert named == ["88 rows | 50 steps", "88 rows | 1 epoch", "176 rows | 50 steps", "176 rows | 1 epoch"]


def test_a_cell_without_a_decisive_pair_is_a_labelled_gap() -> None:
    for draw in (figures.all_cells, figures.ratio_by_size, figures.ratio_by_length):
        assert sum("no decisive pair" in text for text in texts(draw(ratios()))) == 1


def test_an_open_interval_ends_in_an_arrow_and_a_closed_one_does_not() -> None:
    def arrows(mark: figures._Mark) -> list[str]:
        markers = [str(line.get_marker()) for line in figures._draw_all_cells([mark]).axes[0].lines]
        return [marker for marker in markers if marker in "<>"]

    marks = figures._marks(ratios())
    by_ratio = {(mark.cell, mark.opponent): mark for mark in marks}
    open_top, open_bottom = by_ratio[Cell(176, "50"), "base"], by_ratio[Cell(176, "50"), "prompted"]
    closed = by_ratio[Cell(88, "50"), "base"]
    assert [arrows(mark) for mark in (open_top, open_bottom, closed)] == [[">"], ["<"], []]


def test_the_ratio_drawn_adds_half_a_pair_to_each_side() -> None:
    marks = {(mark.cell, mark.opponent): mark for mark in figures._marks(ratios())}
    assert marks[Cell(176, "50"), "base"].ratio == pytest.approx(100.5 / 0.5)
    assert marks[Cell(88, "50"), "base"].ratio == pytest.approx(81.5 / 14.5)
    assert math.isnan(marks[Cell(88, "1-epoch"), "base"].ratio)


def test_every_point_and_finite_end_lies_within_the_ratio_axis() -> None:
    low, high = figures._limits(figures._marks(ratios()))
    assert low < 0.5 / 9.5
    assert high > 201


def test_length_axis_names_steps_done_and_epochs_asked_for() -> None:
    named = texts(figures.ratio_by_length(ratios()))
    assert {"11", "22", "50", "1 epoch"} <= set(named)


def test_panels_are_drawn_only_for_opponents_in_the_table() -> None:
    against_base = ratios().query("opponent == 'base'")
    named = texts(figures.ratio_by_size(against_base))
    assert "against untuned, short prompt" in named
    assert "against untuned, long prompt" not in named


@pytest.mark.parametrize("draw", [figures.all_cells, figures.ratio_by_size, figures.ratio_by_length])
def test_figure_without_cells_holds_a_sentence(draw: object) -> None:
    assert callable(draw)
    assert texts(draw(NO_ROWS)) == ["No cell has been judged yet."]


def test_figure_without_training_or_criteria_holds_a_sentence() -> None:
    assert texts(figures.loss_curves([])) == ["No cell has been trained yet."]
    assert texts(figures.compliance(shares(), [], None)) == ["No criterion has been checked yet."]


def test_long_curves_become_200_block_means_without_infinite_losses() -> None:
    curve = run(88, "1-epoch", [math.inf, *[float(value) for value in range(1, 1001)]]).loss
    points = figures._block_means(curve)
    assert len(points) == 200
    assert points[0] == (4.0, 3.0)  # steps 2 to 6, losses 1 to 5


def test_curves_without_a_finite_loss_leave_the_panel_empty() -> None:
    assert "88 rows" not in texts(figures.loss_curves([run(88, "50", [math.inf]), run(176, "50", [])]))


def test_compliance_draws_the_chosen_cell_alone() -> None:
    points = figures._shares_of(shares(), "tuned", Cell(88, "50"))
    assert points == {"hook": 70.0}
    assert figures._shares_of(shares(), "tuned", Cell(176, "50")) == {}
    assert figures._shares_of(shares(), "tuned", None) == {}


@pytest.mark.parametrize("criterion", ["offer_$5_or_$6", "約束 🎁", "<b>&amp;"])
def test_names_of_criteria_are_drawn_as_they_are(criterion: str) -> None:
    assert criterion.replace("_", " ") in texts(figures.compliance(shares(criterion), [criterion], None))


def test_same_data_gives_same_bytes() -> None:
    assert every_figure() == every_figure()
    assert figures.cells_png(ratios()) == figures.cells_png(ratios())


def test_figures_scale_and_carry_no_date_and_no_numbered_ids() -> None:
    for name, svg in every_figure().items():
        opening = svg[: svg.index(">")]
        assert svg.startswith("<svg"), name
        assert "viewBox" in opening, name
        assert "width=" not in opening, name
        assert "height=" not in opening, name
        assert "<metadata" not in svg, name
        assert not re.search(r'id="[a-z][\w.]*_\d+"', svg), name


def test_ids_are_not_shared_between_figures_of_one_page() -> None:
    ids = [found for svg in every_figure().values() for found in set(re.findall(r' id="([^"]+)"', svg))]
    assert ids
    assert len(ids) == len(set(ids))


def test_preview_is_a_png() -> None:
    assert figures.cells_png(ratios()).startswith(b"\x89PNG\r\n")
    assert figures.cells_png(NO_ROWS).startswith(b"\x89PNG\r\n")
    assert figures.loss_png(run(88, "50", [2.0, 1.5]).loss).startswith(b"\x89PNG\r\n")


def test_importing_the_module_imports_neither_matplotlib_nor_scipy() -> None:
    code = (
        "import sys, synthpost_dagster.report.figures, synthpost_dagster.report.page;"
        "print([name for name in ('matplotlib', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
