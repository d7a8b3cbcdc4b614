"""Tests that the page says what the tables hold, cannot be broken by a post, and loads nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.report.data import Pair, ReportData, Took, Training
from synthpost_dagster.report.figures import Cell
from synthpost_dagster.report.page import render_page
from synthpost_dagster.report.texts import dollars_text, duration_text, number_text, ratio_text
from synthpost_dagster.statistics.ratio import Counts, tie_aware_ratio

HOSTILE = '</script><script>alert(1)</script><!-- <img src="https://evil.example/x"> \x00\ud800 {{ 7 * 7 }}'
NAN = math.nan


def row(cell: Cell, counts: tuple[int, int, int, int], interval: tuple[float, float], **other: Any) -> dict[str, Any]:
    wins, losses, ties, unscored = counts
    done = cell.data_size // 8 if "-" in cell.steps else int(cell.steps)
    ratio = wins / losses if losses else (math.inf if wins else NAN)
    return {
        "data_size": cell.data_size,
        "steps": cell.steps,
        "optimizer_steps": done,
        "rows_seen": min(cell.data_size, 8 * done),
        "opponent": "base",
        "factor": "all",
        "level": "all",
        "pairs": sum(counts),
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "unscored": unscored,
        "win_ratio": ratio,
        "win_ratio_low": interval[0],
        "win_ratio_high": interval[1],
        "tie_aware_ratio": tie_aware_ratio(Counts(*counts)),
        **other,
    }


A, B, C, D = Cell(88, "50"), Cell(1760, "50"), Cell(8800, "50"), Cell(88, "1-epoch")
RATIOS = pd.DataFrame(
    [
        row(D, (50, 40, 5, 0), (0.81, 1.9)),
        row(A, (81, 14, 0, 0), (3.3, 11.1)),
        row(A, (40, 44, 11, 0), (0.58, 1.42), opponent="prompted"),
        row(A, (7, 0, 0, 1), (1.44, math.inf), factor="tone", level="Witty"),
        row(A, (0, 0, 3, 0), (NAN, NAN), factor="tone", level="Calm"),
        row(B, (70, 20, 5, 0), (2.1, 6.0)),
        row(C, (72, 20, 3, 0), (2.2, 6.2)),
    ]
)


def pair(text: str = "Hello.", **other: Any) -> Pair:
    values = {
        "data_size": 88,
        "steps": "50",
        "company": "Bright Harbor",
        "product": "Lamp",
        "product_description": "A lamp.",
        "post_type": "Question",
        "tone": "Witty",
        "length": "short",
        "tuned": text,
        "base": "Base post.",
        "prompted": "Prompted post.",
        "outcome_base": "win",
        "outcome_prompted": "tie",
    }
    return Pair(**values | other)  # type: ignore[arg-type]


def report(**changes: Any) -> ReportData:
    curve = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "learning_rate": [1e-4, 1e-4]})
    compliance = pd.DataFrame(
        [(0, "", "base", "hook", 10, 2), (88, "50", "tuned", "hook", 10, 7)],
        columns=["data_size", "steps", "contestant", "criterion", "posts", "met"],
    )
    data = ReportData(
        task="sales_posts",
        task_description="Posts.",
        profile="tiny",
        student="student-model",
        teacher="teacher-model",
        judge="judge-model",
        caution="",
        evaluation_prompts=95,
        ratios=RATIOS,
        compliance=compliance,
        training=(Training(88, "50", 97.0, 6.25, "one GPU", curve),),
        took=(
            Took("Synthetic rows", "88 kept rows", 91, 45_000, 0.0215, 75.0, 88, 40_000, 0.02, 60.0),
            Took("Training", "1 cell, 50 steps", 0, 0, 0.0, 97.0, 0, 0, 0.0, None),
        ),
        pairs=(pair(),),
        missing=(),
        criteria={"hook": "Open with a hook."},
        levels={"tone": ("Witty", "Calm")},
        prompt_tokens={"base": 84.0, "prompted": 612.0},
        fingerprint="3f9a0c1b2d4e5f60",
        made_at="2025-01-01 10:00 UTC",
    )
    return replace(data, **changes)


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(report())


class Reader(HTMLParser):
    """Reads a page as a browser would: elements with attributes, text outside scripts, and the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def pairs_of(page: str) -> Any:
    return json.loads(Reader(page).scripts[0])


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (81 / 14, 3.31, 11.1, "5.8 (3.3 to 11)"),
        (math.inf, 26.58, math.inf, "∞ (at least 26.6)"),
        (NAN, NAN, NAN, "undefined (no decisive pair)"),
        (0.0, 0.0, 0.507, "0 (0 to 0.51)"),
        (1 / 3, 0.0063, 4.15, "0.33 (0.0063 to 4.2)"),
    ],
)
def test_ratio_is_written_with_its_interval(ratio: float, low: float, high: float, text: str) -> None:
    assert ratio_text(ratio, low, high) == text


@pytest.mark.parametrize(
    ("value", "text"), [(9.96, "10"), (0.0996, "0.10"), (123.4, "123"), (12345.0, "12,345"), (1.0, "1.0"), (0.0, "0")]
)
def test_number_has_two_digits_and_no_exponent(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.44, "8.4 s"), (59.7, "1 min 0 s"), (97, "1 min 37 s"), (45, "45 s"), (7500, "2 h 5 min")]
)
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("usd", "text"), [(0.0, "none"), (12.345, "$12.35"), (0.01, "$0.01"), (0.00042, "$0.00042")])
def test_dollars_are_written_in_cents_or_finer(usd: float, text: str) -> None:
    assert dollars_text(usd) == text


def test_what_a_stage_took_stands_beside_what_was_expected(page: str) -> None:
    text = Reader(page).text
    assert "91 (88)" in text
    assert "45,000 (40,000)" in text
    assert "$0.02 ($0.02)" in text
    assert "1 min 15 s (1 min 0 s)" in text
    assert "1 cell, 50 steps" in text


def test_headline_names_the_highest_lower_bound_and_the_cells_it_cannot_be_told_from(page: str) -> None:
    text = Reader(page).text
    assert "88 rows | 50 steps: 5.8 wins for every loss." in text
    assert "win ratio of 5.8 (3.3 to 11): W 81, L 14, T 0, X 0 of 95 pairs." in text
    assert "do not tell it from them: 1,760 rows | 50 steps; 8,800 rows | 50 steps." in text
    assert "It is also the smallest of these." in text
    assert "1 other cell has the whole interval below it." in text


def test_headline_names_a_smaller_cell_that_the_best_one_cannot_be_told_from() -> None:
    ratios = pd.DataFrame([row(A, (70, 20, 5, 0), (2.1, 6.0)), row(B, (81, 14, 0, 0), (3.3, 11.1))])
    text = Reader(render_page(report(ratios=ratios))).text
    assert "The smallest of all these is 88 rows | 50 steps: no other needs fewer rows" in text


def test_headline_says_how_the_cell_fares_against_the_long_prompt_and_what_it_saves(page: str) -> None:
    text = Reader(page).text
    assert "its win ratio is 0.91 (0.58 to 1.4): W 40, L 44, T 11, X 0 of 95 pairs. The interval holds 1" in text
    assert "84 tokens on average instead of 612, so 528 fewer for every post." in text


@pytest.mark.parametrize(
    ("interval", "words"),
    [((1.2, 1.9), "does better than prompting alone"), ((0.2, 0.8), "prompting alone does better")],
)
def test_headline_says_who_is_better_only_where_the_interval_leaves_out_1(
    interval: tuple[float, float], words: str
) -> None:
    against = row(A, (40, 44, 11, 0), interval, opponent="prompted")
    assert (
        words in Reader(render_page(report(ratios=pd.DataFrame([row(A, (81, 14, 0, 0), (3.3, 11.1)), against])))).text
    )


def test_headline_claims_no_winner_where_the_interval_holds_1() -> None:
    text = Reader(render_page(report(ratios=RATIOS[:1]))).text
    assert "No cell is shown to beat the untuned model with the short prompt." in text
    assert "wins for every loss" not in text


def test_headline_says_where_every_cell_loses() -> None:
    text = Reader(render_page(report(ratios=pd.DataFrame([row(A, (10, 80, 0, 0), (0.06, 0.25))])))).text
    assert "In every cell the tuned posts lose to the untuned model more often than they win." in text


def test_cell_without_a_loss_has_only_a_lower_bound() -> None:
    text = Reader(render_page(report(ratios=pd.DataFrame([row(A, (100, 0, 0, 0), (26.58, math.inf))])))).text
    assert "88 rows | 50 steps: the tuned posts won every decisive pair." in text
    assert "∞ (at least 26.6)" in text


@pytest.mark.parametrize("counts", [(0, 0, 95, 0), (0, 0, 0, 95)])
def test_cells_without_a_decisive_pair_are_undefined(counts: tuple[int, int, int, int]) -> None:
    text = Reader(render_page(report(ratios=pd.DataFrame([row(A, counts, (NAN, NAN))])))).text
    assert "No cell has a decisive pair." in text
    assert "undefined (no decisive pair)" in text


def test_cell_without_a_decisive_pair_beside_others_cannot_be_placed() -> None:
    ratios = pd.DataFrame([row(A, (81, 14, 0, 0), (3.3, 11.1)), row(B, (0, 0, 95, 0), (NAN, NAN))])
    assert "1 cell cannot be placed: no decisive pair." in Reader(render_page(report(ratios=ratios))).text


def test_page_without_any_result_says_so() -> None:
    data = report()
    nothing = {"ratios": data.ratios[:0], "compliance": data.compliance[:0], "training": (), "pairs": ()}
    text = Reader(render_page(report(**nothing, prompt_tokens={}))).text
    assert "No cell has been judged yet. There are no verdicts to report." in text
    for words in ("nothing to draw", "been checked yet", "been trained yet", "no posts to show yet"):
        assert words in text, words


def test_cells_that_see_fewer_rows_than_the_smaller_subset_are_marked_as_replicates(page: str) -> None:
    text = Reader(page).text
    assert "Replicates 1: 1,760 rows | 50 steps; 8,800 rows | 50 steps. Each sees 400 rows in 50 steps" in text
    assert "Replicates 2" not in text


def test_levels_stand_in_the_order_of_the_task(page: str) -> None:
    text = Reader(page).text
    assert text.index("Witty 7 0 0 1 ∞ (at least 1.44)") < text.index("Calm 0 0 3 0 undefined")


def test_caution_and_missing_cells_are_shown_when_there_are_any(page: str) -> None:
    text = Reader(render_page(report(caution="Only a toy.", missing=(("176|1-epoch", "not trained"),)))).text
    assert "Caution. Only a toy." in text
    assert "1 cell of the sweep is not in this report. 176 rows | 1 epoch: not trained" in text
    assert "Caution." not in Reader(page).text


def test_compliance_and_training_are_tables_too(page: str) -> None:
    text = Reader(page).text
    assert "hook 10 20 % 70 %" in text
    assert "88 rows | 50 steps 2 2.00 1.00 1 min 37 s 6.2 GiB one GPU" in text


def test_hostile_text_stays_text_wherever_it_stands() -> None:
    data = report(
        pairs=(pair(HOSTILE, company=HOSTILE),),
        task_description=HOSTILE,
        caution=HOSTILE,
        student=HOSTILE,
        criteria={"hook": HOSTILE},
        missing=((HOSTILE, HOSTILE),),
    )
    read = Reader(render_page(data))
    assert len(read.scripts) == 2
    assert "use strict" in read.scripts[1]
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert "49" not in read.text
    assert "\x00" not in read.text


def test_post_reaches_the_script_whole_with_a_mark_for_what_cannot_be_shown() -> None:
    page = render_page(report(pairs=(pair(HOSTILE),)))
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert shown in pairs_of(page)["strings"]
    page.encode()


@pytest.mark.parametrize("text", ["", "عرض اليوم", "🎉👩‍🚀", "long " * 20_000, "line\u2028break\r\n\t"])
def test_any_post_reaches_the_script_unchanged(text: str) -> None:
    content = pairs_of(render_page(report(pairs=(pair(text),))))
    assert content["strings"][content["rows"][0][7]] == text


def test_filters_hold_each_value_once_in_the_order_of_the_task() -> None:
    pairs = (pair(tone="Calm"), pair(tone="Witty", data_size=1760), pair(tone="Witty", company="Atlas"))
    content = pairs_of(render_page(report(pairs=pairs)))
    options = {name: [content["strings"][index] for index in of] for name, of in content["options"].items()}
    assert options == {
        "cell": ["88 rows | 50 steps", "1,760 rows | 50 steps"],
        "company": ["Atlas", "Bright Harbor"],
        "post_type": ["Question"],
        "tone": ["Witty", "Calm"],
    }
    assert content["strings"][content["start"]] == "88 rows | 50 steps"


def test_nothing_is_loaded_from_outside(page: str) -> None:
    loading = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
    targets = [value or "" for _, given in Reader(page).elements for name, value in given.items() if name in loading]
    assert targets
    assert not [target for target in targets if not target.startswith("#")]
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page


def test_policy_allows_the_one_script_by_its_hash(page: str) -> None:
    read = Reader(page)
    (policy,) = [given["content"] for tag, given in read.elements if tag == "meta" and "http-equiv" in given]
    script = base64.b64encode(hashlib.sha256(read.scripts[1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{script}';" in policy
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")


def test_script_sets_posts_as_text_only(page: str) -> None:
    script = Reader(page).scripts[1]
    assert "textContent" in script
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_same_data_gives_same_bytes() -> None:
    assert render_page(report()) == render_page(report())


def test_every_figure_has_an_alternative_and_every_control_a_label(page: str) -> None:
    elements = Reader(page).elements
    images = [given for _, given in elements if given.get("role") == "img"]
    assert len(images) == len([tag for tag, _ in elements if tag == "svg"]) == 5
    assert all(len(given["aria-label"] or "") > 40 for given in images)
    assert len([tag for tag, _ in elements if tag == "figcaption"]) == 5
    labelled = {given["for"] for tag, given in elements if tag == "label"}
    assert {given["id"] for tag, given in elements if tag in ("select", "input")} == labelled


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    elements = Reader(page).elements
    ids = [given["id"] for tag, given in elements if "id" in given and tag not in ("path", "clippath")]
    assert len(ids) == len(set(ids))
    assert {given["href"] for tag, given in elements if tag == "a"} <= {f"#{name}" for name in ids}
