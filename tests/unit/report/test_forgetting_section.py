"""The section on forgetting: figures by cell, what they mean, and what is not known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from synthpost_dagster.report import forgetting_figures
from synthpost_dagster.report.forgetting import (
    NOT_MEASURED,
    ForgettingData,
    Forgotten,
    forgetting_view,
    times_text,
)
from synthpost_dagster.report.page import render_page
from synthpost_dagster.stages.forgetting import _kinds
from synthpost_dagster.training.forgetting import general_text
from tests.helpers.reports import HOSTILE, NAN, A, B, C, D, Reader, forgetting, kinds_of, report


def section(data: ForgettingData) -> str:
    page = render_page(report(forgetting=data))
    return page[page.index('<section id="forgetting">') : page.index('<section id="took">')]


@pytest.mark.usefixtures("no_drawing")
def test_each_cell_shows_perplexities_ratio_seeds_and_worst_kind() -> None:
    text = Reader(section(forgetting())).text
    for words in (
        "No cell is above the task's limit of 1.15 (quality.max_perplexity_ratio).",
        "A ratio of 1.00 means that general text is as likely to the tuned model as to the untuned one",
        "not of following instructions",
        # (1.04⁹ · 1.09)^(1/10) = 1.045 and (1.08⁹ · 1.09)^(1/10) = 1.081
        "88 rows | 50 steps 8.00 8.36 1.04 1.04 to 1.08 (2 seeds) poem 1.09",
        "1,760 rows | 50 steps 8.00 7.86 0.98 poem 1.01",
        "4 short passages of 2 kinds, 1,000 tokens",
        "prose 3 1.04 0.98 poem 1 1.09 1.01",
    ):
        assert words in text, words
    assert "artificial" not in text and "above the limit" not in text


@pytest.mark.usefixtures("no_drawing")
def test_a_cell_above_the_limit_is_marked_though_another_seed_alone_is() -> None:
    found = section(forgetting(limit=1.06))
    text = Reader(found).text
    assert "1 cell of 2 is above the task's limit of 1.06" in text
    assert "88 rows | 50 steps above the limit 8.00" in text
    assert found.count('<span class="tag warning">above the limit') == 1
    both = forgetting(Forgotten(A, 1, kinds_of(1.3)), Forgotten(B, 1, kinds_of(1.2)))
    assert forgetting_view(both).summary.startswith("2 cells of 2 are above")


@pytest.mark.usefixtures("no_drawing")
def test_undefined_figures_are_marked() -> None:
    text = Reader(section(forgetting(Forgotten(A, 1, kinds_of(NAN)), Forgotten(A, 2, kinds_of())))).text
    assert (
        "88 rows | 50 steps undefined 8.00 undefined undefined 1.04 to 1.04 (2 seeds, undefined under 1) poem 1.09"
        in text
    )
    assert "No cell is above" in text and "1 cell of 1 undefined: the model gave no number." in text


@pytest.mark.usefixtures("no_drawing")
def test_the_embedded_model_is_said_to_have_had_nothing_to_forget() -> None:
    text = Reader(section(forgetting(is_artificial=True))).text
    assert "The embedded model has never seen general text" in text
    assert "nothing about forgetting" in text


@pytest.mark.usefixtures("no_drawing")
def test_missing_measurements_are_marked_per_cell_or_as_a_whole() -> None:
    some = forgetting(Forgotten(A, 1, None), Forgotten(B, 1, kinds_of()), Forgotten(D, 2, kinds_of()))
    text = Reader(section(some)).text
    assert (
        "No cell is above the task's limit of 1.15 (quality.max_perplexity_ratio). 2 cells of 3 not measured." in text
    )
    assert "88 rows | 50 steps not measured" in text
    assert "prose 3 not measured not measured 1.04" in text
    assert NOT_MEASURED in Reader(section(forgetting(Forgotten(A, 1, None)))).text
    assert "No cell has been trained yet." in Reader(section(ForgettingData((), 1.15, 1, False))).text


@pytest.mark.usefixtures("no_drawing")
def test_a_kinds_name_is_escaped() -> None:
    table = kinds_of()
    read = Reader(section(forgetting(Forgotten(A, 1, table.assign(kind=[HOSTILE, "poem"])))))
    assert not [tag for tag, _ in read.elements if tag in ("script", "img")]


def test_figures_are_written_to_two_decimals_unless_they_are_large() -> None:
    assert [times_text(ratio) for ratio in (0.996, 1.149, 9.994, 12.3, 12345.0, NAN)] == [
        "1.00",
        "1.15",
        "9.99",
        "12",
        "12,345",
        "undefined",
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_names_cells_marks_and_the_limit_and_has_1_on_its_axis() -> None:
    drawn = texts(forgetting_figures.forgetting(forgetting()))
    for word in (
        "88 rows | 50 steps",
        "1,760 rows | 50 steps",
        "the task's limit, 1.15",
        "its worst kind of text",
        "1",
    ):
        assert word in drawn, word
    assert "the same, another training seed" in drawn
    one = forgetting(Forgotten(A, 1, kinds_of()))
    assert "the same, another training seed" not in texts(forgetting_figures.forgetting(one))


@pytest.mark.parametrize("ratio", [0.02, 0.8, 1.0, 1.3, 4.0, 60.0, 1e9])
def test_axis_of_any_range_has_a_few_ticks_including_1(ratio: float) -> None:
    low, high = min(0.95, ratio), max(1.2, ratio)
    ticks = forgetting_figures._ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert 1 in ticks
    assert ticks[0] < 3 * low and ticks[-1] > high / 1e3


def test_a_picture_of_nothing_says_so() -> None:
    for data in (forgetting(Forgotten(A, 1, None)), forgetting(Forgotten(C, 1, kinds_of(NAN)))):
        assert texts(forgetting_figures.forgetting(data)) == ["No perplexity to draw."]


def test_adapters_of_before_and_of_another_text_count_as_not_measured() -> None:
    table = kinds_of()
    inputs: Any = SimpleNamespace(general_text=general_text().digest)
    store: Any = SimpleNamespace(read_table=lambda manifest, name: table)

    def adapter(files: dict[str, object], **facts: str) -> Any:
        return SimpleNamespace(files=files, facts=facts)

    there: dict[str, object] = {"forgetting.parquet": None}
    assert _kinds(inputs, store, adapter(there, general_text=general_text().digest)) is table
    assert _kinds(inputs, store, adapter(there, general_text="another")) is None
    assert _kinds(inputs, store, adapter({})) is None
