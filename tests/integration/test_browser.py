"""What people see, in a real browser: the page, read and worked with, and the lineage in the Dagster UI."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.judging.people import is_candidate_first, read_labels
from synthpost_dagster.judging.verdicts import pairs
from synthpost_dagster.report.page import render_page
from synthpost_dagster.stages.page_inputs import page_inputs
from synthpost_dagster.stages.report import gather
from tests.helpers.ports import free_port, is_open
from tests.helpers.small_study import BIN, Whole

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 375, "height": 800}}
OWN = ("file:", "blob:", "data:", "http://127.0.0.1")
Until = Callable[..., object]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium on this machine; CI installs one (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a window; what the page complains of, or asks of another host, fails the test."""
    contexts, complaints = [], []

    def open_page(address: str, size: str = "desk") -> Any:
        context = browser.new_context(viewport=SIZES[size], accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(OWN) else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def address_of(whole: Whole) -> str:
    return (whole.study.home / "report" / "index.html").as_uri()


def cards(page: Any) -> Any:
    return page.locator("article.pair")


def test_the_page_shows_every_cell_and_its_posts_from_the_file_alone(
    whole: Whole, show: Callable[..., Any], tmp_path: Path
) -> None:
    page = show(address_of(whole))
    text = " ".join(page.inner_text("body").split())
    study = whole.study.open()
    for cell in study.cells:
        length = cell.steps.replace("-", " ") if "epoch" in cell.steps else f"{cell.steps} steps"
        assert f"{cell.data_size} rows | {length}" in text
    made = [study.store.read_table(study.resolver.need("predictions", cell.place)) for cell in study.cells]
    posts = [post for table in made for post in table["post"]]
    assert any(" ".join(post.split()) in text for post in posts), "the script shows no post"
    picture = tmp_path / "page.png"
    page.screenshot(path=str(picture))
    assert picture.stat().st_size > 20_000


def test_the_figures_on_the_page_are_those_of_the_table(whole: Whole, show: Callable[..., Any]) -> None:
    page = show(address_of(whole))
    table = pd.read_parquet(whole.study.home / "report" / "ratio_report.parquet")
    text = " ".join(page.locator("#cells").inner_text().split())
    for row in table[table["factor"] == "all"].itertuples():
        assert f"{row.wins} {row.losses} {row.ties} {row.unscored}" in text


def test_filters_select_pairs_and_are_in_the_address(whole: Whole, show: Callable[..., Any]) -> None:
    page = show(address_of(whole))
    page.select_option("[data-filter=cell]", "8|3")
    assert "of 11 pairs" in page.inner_text("#shown")
    study = whole.study.open()
    cell = next(cell for cell in study.cells if cell.key == "8|3")
    outcomes = pairs(study.store.read_table(study.resolver.need("verdicts", cell.place)))
    against_base = outcomes[outcomes["opponent"] == "base"]
    wanted = against_base["outcome"].value_counts().index[0]
    page.select_option("#filter-outcome", wanted)
    assert cards(page).count() == (against_base["outcome"] == wanted).sum()
    tone = against_base.loc[against_base["outcome"] == wanted, "tone"].iloc[0]
    page.select_option("[data-filter=tone]", label=tone)
    fitting = against_base[(against_base["outcome"] == wanted) & (against_base["tone"] == tone)]
    assert cards(page).count() == len(fitting) > 0
    product = fitting["product"].iloc[0]
    page.fill("#filter-text", product)
    page.wait_for_timeout(300)
    assert product in cards(page).first.inner_text()
    page.fill("#filter-text", "no such words in any post")
    page.wait_for_timeout(300)
    assert page.inner_text("#shown") == "No pair fits these filters."
    page.fill("#filter-text", "")
    page.wait_for_timeout(300)
    again = show(page.url)
    assert cards(again).count() == len(fitting), "the address does not bring the filters back"


def test_a_card_opens_the_games_in_both_orders_with_the_judges_reasons(whole: Whole, show: Callable[..., Any]) -> None:
    page = show(address_of(whole))
    details = cards(page).first.locator("details").first
    details.locator("summary").click()
    games = details.locator("li")
    assert games.count() == 2
    said = [games.nth(place).inner_text() for place in range(2)]
    assert "A is tuned" in said[0] and "B is tuned" in said[1]
    assert all("misses" in text for text in said)


def test_the_blind_sheet_is_saved_and_what_people_fill_in_is_read_back(
    whole: Whole, show: Callable[..., Any], tmp_path: Path
) -> None:
    page = show(address_of(whole))
    with page.expect_download() as download:
        page.click("#make-sheet")
    sheet = tmp_path / "sheet.csv"
    download.value.save_as(sheet)
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert [row["pair_id"] for row in rows] == sorted(row["pair_id"] for row in rows)
    shown = " ".join(" ".join(row.values()) for row in rows).lower()
    assert "tuned" not in shown and "baseline" not in shown
    study = whole.study.open()
    tables = [study.store.read_table(study.resolver.need("predictions", cell.place)) for cell in study.cells]
    tuned = {post for table in tables for post in table["post"]}
    for row in rows:
        first = row["post_1"] if is_candidate_first(row["pair_id"].strip("'")) else row["post_2"]
        assert first.removeprefix("'") in tuned
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "choice": "1"} for row in rows)
    assert set(read_labels(sheet).values()) == {"win", "loss"}


def test_page_can_be_used_with_the_keyboard_alone(whole: Whole, show: Callable[..., Any]) -> None:
    page = show(address_of(whole))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#filter-outcome")
    page.keyboard.type("tie")
    assert page.evaluate("document.activeElement.id") == "filter-outcome"
    assert {text.rsplit(": ")[-1] for text in cards(page).locator(".outcomes li:first-child").all_inner_texts()} <= {
        "tie"
    }


def test_a_screen_reader_finds_a_name_for_every_control_picture_and_table(
    whole: Whole, show: Callable[..., Any]
) -> None:
    page = show(address_of(whole))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("select, input, button, [role=img], [role=region]")]
          .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim()))
          .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.get_attribute("#shown", "role") == "status"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_does_not_scroll_sideways_on_a_phone(whole: Whole, show: Callable[..., Any], scheme: str) -> None:
    page = show(address_of(whole), "phone")
    page.emulate_media(color_scheme=scheme)
    inside, width = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert inside <= width <= 375


@pytest.mark.parametrize("size", list(SIZES))
def test_navigation_is_one_line(whole: Whole, show: Callable[..., Any], size: str) -> None:
    page = show(address_of(whole), size)
    height, lines = page.evaluate(
        "[document.querySelector('nav ul').clientHeight, new Set([...document.querySelectorAll('nav li')]"
        ".map((item) => item.offsetTop)).size]"
    )
    assert (lines, height < 70) == (1, True)


def test_15_cells_of_440_prompts_are_shown_in_under_3_seconds(
    whole: Whole, show: Callable[..., Any], tmp_path: Path
) -> None:
    opened = whole.study.open()
    small = gather(page_inputs(opened), opened.store)
    times = 15 * 440 // len(small.pairs) + 1
    many = [
        pair._replace(
            posts=(f"{pair.posts[0]} {place}", *pair.posts[1:]),
            values=(pair.values[0], f"{pair.values[1]} {place % 16}", *pair.values[2:]),
        )
        for place, pair in enumerate(small.pairs * times)
    ][: 15 * 440]
    file = tmp_path / "large.html"
    file.write_text(render_page(replace(small, pairs=tuple(many))), encoding="utf-8")
    page = show(file.as_uri())
    seconds = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
    assert cards(page).count() == 20
    assert seconds < 3


GROUPS = ("data", "training", "evaluation")


def test_lineage_in_the_ui_shows_the_three_groups(whole: Whole, browser: Any, until: Until) -> None:
    port = free_port()
    window = browser.new_page(viewport={"width": 2600, "height": 1400})
    with subprocess.Popen(
        [str(BIN / "dagster-webserver"), "-m", "synthpost_dagster.definitions", "-h", "127.0.0.1", "-p", str(port)],
        env=whole.study.environment(DAGSTER_HOME=str(whole.study.home / "dagster")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            until("the web server", lambda: is_open(port))
            window.goto(f"http://127.0.0.1:{port}/asset-groups")
            for group in GROUPS:
                window.get_by_text(group, exact=True).first.wait_for(timeout=120_000)
        finally:
            window.close()
            server.terminate()
