"""The page as a whole: it says what the tables hold, cannot be broken by a post, and loads nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import re

import pandas as pd
import pytest

from synthpost_dagster.report.page import render_page
from synthpost_dagster.report.texts import (
    dollars_text,
    duration_text,
    interval_text,
    number_text,
    p_text,
    percent_text,
    points_text,
    ratio_text,
)
from tests.helpers.reports import (
    HOSTILE,
    RATIOS,
    A,
    B,
    C,
    Reader,
    choice,
    control,
    kinds_of,
    pair,
    ratio_row,
    ratios,
    report,
    trust,
)

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(report())


def text_of(**changes: object) -> str:
    return Reader(render_page(report(**changes))).text


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (81 / 14, 3.31, 11.1, "5.8 (3.3 to 11)"),
        (INF, 26.58, INF, "∞ (at least 26.6)"),
        (NAN, NAN, NAN, "undefined (no decisive pair)"),
        (0.0, 0.0, 0.507, "0 (0 to 0.51)"),
        (1 / 3, 0.0063, 4.15, "0.33 (0.0063 to 4.2)"),
    ],
)
def test_ratio_is_written_with_its_interval(ratio: float, low: float, high: float, text: str) -> None:
    assert ratio_text(ratio, low, high) == text
    assert interval_text(1.0, INF) == "at least 1.00"


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


def test_shares_and_differences_are_rounded_without_lying() -> None:
    assert [percent_text(share) for share in (0.0, 0.001, 0.255, 0.999, 1.0, NAN)] == [
        "0 %",
        "under 1 %",
        "26 %",
        "over 99 %",
        "100 %",
        "unknown",
    ]
    assert [points_text(share) for share in (0.03, -0.02, 0.0, NAN)] == ["+3", "−2", "0", "unknown"]
    assert [p_text(p) for p in (0.03, 1e-9)] == ["p = 0.03", "p < 0.001"]


@pytest.mark.usefixtures("no_drawing")
def test_headline_is_the_first_heading_after_the_notices() -> None:
    page = render_page(report(is_embedded=True))
    assert page.index("A demonstration.") < page.index("<h1>") < page.index("<h2>")
    assert page.count("<h1") == 1


@pytest.mark.usefixtures("no_drawing")
def test_the_surface_shows_each_cell_with_its_figures_and_marks(page: str) -> None:
    surface = Reader(page[page.index('id="surface"') : page.index('id="cells"')]).text
    assert "5.8 3.3 to 11 81/14/3/2 answer" in surface
    assert "3.5 2.1 to 6.1 70/20/5/0 not told apart replicates 1" in surface
    assert "8,800 3.6 2.2 to 6.2 72/20/3/0 not told apart replicates 1 not in the sweep" in surface
    assert "1,760 rows | 50 steps; 8,800 rows | 50 steps. Each sees 400 rows in 50 steps" in surface
    assert re.search(r'<td class="heat2 chosen"><strong>5.8</strong>', page)


@pytest.mark.usefixtures("no_drawing")
def test_a_cell_that_does_better_by_win_rate_is_marked_so() -> None:
    assert "70/20/5/0 better by win rate replicates 1" in text_of(choice=choice(alike=(C,), better=(B,)))


@pytest.mark.usefixtures("no_drawing")
def test_a_missing_cell_is_a_named_gap_and_a_notice() -> None:
    text = text_of(missing=(("176|1-epoch", "not trained"), ("88|50|2", "no verdicts")))
    assert "2 cells of the sweep are not in this report. 176 rows | 1 epoch: not trained" in text
    assert "88 rows | 50 steps | seed 2: no verdicts" in text
    assert "176 not in the sweep missing" in text


def test_the_table_of_cells_holds_every_figure(page: str) -> None:
    cells = Reader(page[page.index('id="cells"') : page.index('id="next"')]).text
    assert (
        "88 rows | 50 steps answer 88 50 81 14 3 2 5.8 (3.3 to 11) 5.3 84 % 5.1 < 0.001 4.4 (2.5 to 8.8) 91 % +2"
        in cells
    )
    assert "40 44 11 5 0.91 (0.58 to 1.4)" in cells
    assert "60 % warning" in cells, "an order consistency under 75 % is marked"


@pytest.mark.usefixtures("no_drawing")
def test_reason_replaces_a_missing_length_controlled_ratio() -> None:
    nothing = {"length_controlled_ratio": NAN, "length_controlled_low": NAN, "length_controlled_high": NAN}
    row = ratio_row(A, (81, 14, 3, 2), **nothing, length_note="length separates the outcomes")
    assert "none length separates the outcomes" in text_of(ratios=ratios(row), choice=choice(alike=()))
    without_interval = row | {"length_controlled_ratio": 2.0, "length_note": "under 95 decisive pairs, so no interval"}
    assert "2.0 under 95 decisive pairs, so no interval" in text_of(
        ratios=ratios(without_interval), choice=choice(alike=())
    )


def test_spread_over_seeds_is_shown_beside_the_interval(page: str) -> None:
    text = Reader(page).text
    assert "seed 1: 5.8 (3.3 to 11) seed 2: 2.0 (1.3 to 3.2) 2.0 to 5.6 over 2 seeds too few seeds" in text
    assert "60 30 5 5" not in text, "a further seed is no cell of its own"


def test_steps_beyond_the_best_cell_come_first(page: str) -> None:
    text = Reader(page[page.index('id="next"') : page.index('id="levels"')]).text
    first = text.index(
        "88 rows | 50 steps 1,760 rows | 50 steps +3 (−2 to +8) not enough evidence $0.02, 40 s for rows"
    )
    other = text.index("88 rows | 1 epoch 88 rows | 50 steps +30 (+20 to +40) gain no money, 0.0 s for rows, 18 s more")
    assert first < other
    assert "747 decided pairs, so 787 prompts" in text
    assert "194 decided pairs, so 205 prompts" in text


@pytest.mark.usefixtures("no_drawing")
def test_no_winner_and_no_advice_where_the_judge_cannot_be_trusted() -> None:
    page = render_page(report(trust=trust(controls=(control("resampled", 80, 10, 5, 5),))))
    for sign in ("preferred 5.8", "tag best", "not told apart", 'class="best"', ' chosen"'):
        assert sign not in page, sign
    assert not re.search(r'<select id="filter-0".*?selected', page)


@pytest.mark.usefixtures("no_drawing")
def test_study_mode_is_labelled_in_notice_and_ratios() -> None:
    page = render_page(report(is_study_mode=True))
    assert page.index("Study mode.") < page.index("<h1>")
    tag = '<span class="tag warning">study mode: one order</span>'
    assert page.count(tag) >= 10
    assert all(tag in row for row in page.split("<tbody>")[1].split("</tbody>")[0].split("</tr>")[:-1])
    assert tag not in render_page(report())


@pytest.mark.usefixtures("no_drawing")
def test_page_without_any_result_says_so() -> None:
    data = report()
    nothing = {
        "ratios": data.ratios[:0],
        "compliance": data.compliance[:0],
        "training": (),
        "pairs": (),
        "stage_costs": (),
    }
    nothing |= {"choice": None, "worth": (), "seeds": (), "costs": {}, "prompting": None}
    text = text_of(**nothing, prompt_tokens={})
    for words in ("nothing to draw", "been checked yet", "been trained yet", "no posts to show yet", "No two cells"):
        assert words in text, words


def test_levels_of_factors_follow_the_order_of_the_task(page: str) -> None:
    text = Reader(page).text
    assert "By post type, tone, length, company" in text
    assert text.index("Witty 7 0 0 1 ∞ (at least 1.44)") < text.index("Calm 0 0 3 0 undefined")
    assert "Witty 7 0 0 1 ∞ (at least 1.44) not compared 72 % (66 to 78 %)" in text


def test_compliance_training_and_stages_are_tables_too(page: str) -> None:
    text = Reader(page).text
    assert "hook 10 20 % 70 %" in text
    assert "88 rows | 50 steps 1 2 2.00 1.00 1 min 37 s 6.2 GiB 1.04 one GPU" in text
    assert "91 (88) 45,000 (40,000) $0.02 ($0.02) 1 min 15 s (1 min 0 s)" in text


@pytest.mark.usefixtures("no_drawing")
def test_hostile_text_is_escaped_everywhere() -> None:
    data = report(
        pairs=(pair(HOSTILE, company=HOSTILE),),
        task_description=HOSTILE,
        student=HOSTILE,
        judges=(HOSTILE,),
        criteria={"hook": HOSTILE},
        missing=((HOSTILE, HOSTILE),),
        trust=trust(missing_controls=HOSTILE, controls=()),
        ratios=ratios(*RATIOS.to_dict("records"), ratio_row(A, (1, 1, 0, 0), factor="tone", level=HOSTILE)),
    )
    read = Reader(render_page(data))
    assert len(read.scripts) == 2
    assert "use strict" in read.scripts[1]
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert "49" not in read.text
    assert "\x00" not in read.text


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


def test_same_data_gives_same_bytes(page: str) -> None:
    assert render_page(report()) == page


def test_every_figure_has_an_alternative_and_every_control_a_label(page: str) -> None:
    elements = Reader(page).elements
    images = [given for _, given in elements if given.get("role") == "img"]
    assert len(images) == len([tag for tag, _ in elements if tag == "svg"]) == 7
    assert all(len(given["aria-label"] or "") > 40 for given in images)
    assert len([tag for tag, _ in elements if tag == "figcaption"]) == 7
    labelled = {given["for"] for tag, given in elements if tag == "label"}
    assert {given["id"] for tag, given in elements if tag in ("select", "input")} == labelled


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    elements = Reader(page).elements
    ids = [given["id"] for tag, given in elements if "id" in given and tag not in ("path", "clippath")]
    assert len(ids) == len(set(ids))
    assert {given["href"] for tag, given in elements if tag == "a"} <= {f"#{name}" for name in ids}


def test_scrolled_tables_can_be_reached_by_keyboard_and_are_named(page: str) -> None:
    regions = [given for _, given in Reader(page).elements if "scroll" in (given.get("class") or "").split()]
    assert len(regions) > 8
    assert all(given["tabindex"] == "0" and given["role"] == "region" and given["aria-label"] for given in regions)


@pytest.mark.usefixtures("no_drawing")
def test_cell_compared_with_one_baseline_only_is_shown() -> None:
    rows = (ratio_row(A, (40, 44, 11, 5), opponent="prompted"),)
    text = text_of(ratios=ratios(*rows), choice=None, costs={}, seeds=(), worth=())
    assert "not compared" in text


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("kinds", "limit", "shown"),
    [
        (kinds_of(), 1.15, "6.2 GiB 1.04 one GPU"),
        (kinds_of(1.3), 1.15, "6.2 GiB 1.28 above the limit one GPU"),
        (kinds_of(NAN), 1.15, "6.2 GiB undefined one GPU"),
    ],
)
def test_forgetting_is_a_column_of_the_training_runs(kinds: pd.DataFrame, limit: float, shown: str) -> None:
    training = tuple(run._replace(general_text=kinds) for run in report().training)
    text = text_of(training=training, max_perplexity_ratio=limit)
    assert shown in text
    assert "poem 1 8.00 8.72 1.09 all 4" in text


def test_terms_of_the_first_screen_are_in_the_glossary(page: str) -> None:
    ids = {given.get("id") for _, given in Reader(page).elements}
    wanted = "cell baseline tuned win-ratio interval tie unscored holdout control replicate forgetting"
    assert {f"term-{word}" for word in wanted.split()} <= ids
