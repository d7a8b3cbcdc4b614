"""The page of comparisons made elsewhere."""

from __future__ import annotations

import pytest

from synthpost_dagster.pairs.table import Repair
from synthpost_dagster.report.page import render_page
from synthpost_dagster.report.pairs_page import render_pairs_page
from synthpost_dagster.statistics.comparison import compare
from synthpost_dagster.statistics.corners import Corner
from synthpost_dagster.statistics.ratio import Counts
from tests.helpers.reports import HOSTILE, Reader, judge, judged_pairs_report, order, outer_pair, pairs_report


@pytest.fixture(scope="module")
def page() -> str:
    return render_pairs_page(pairs_report())


def test_the_headline_comes_first_and_figures_follow(page: str) -> None:
    text = Reader(page).text
    assert "<h1>tuned: preferred 5.6 times as often as untuned</h1>" in page
    assert "95 78 14 0 3 5.6 (3.1 to 11)" in text
    assert "Worst case 4.6 (2.7 to 8.3)" in text
    assert "Win rate 85 %" in text
    assert "Sign test p < 0.001" in text
    assert "A true ratio of 7 would give an interval of 3.8 to 14 with 95 pairs" in text


def test_factors_corners_and_columns_that_are_none_are_shown(page: str) -> None:
    text = Reader(page).text
    assert "Witty 50 0 0 0 ∞ (at least 13.1)" in text
    assert "Not used as factors: remark." in text
    corner = Corner("tone", "Calm", Counts(2, 8, 1, 0), Counts(70, 10, 3, 2), 0.01)
    assert "Tone Calm: won 2 of 10 decided pairs" in Reader(render_pairs_page(pairs_report(corners=(corner,)))).text


def test_repairs_are_listed(page: str) -> None:
    text = Reader(page).text
    assert "'tuned win 3 quotes removed" in text
    assert "both unscored 2 names no label" in text
    assert 'id="repairs"' not in render_pairs_page(pairs_report(repairs=()))


def test_strict_mode_is_labelled(page: str) -> None:
    assert "Exact labels alone were counted" in render_pairs_page(pairs_report(is_strict=True))
    assert "Exact labels alone were counted" not in page


def test_a_judge_has_its_trust_lines_and_its_warning_above_the_headline() -> None:
    page = render_pairs_page(judged_pairs_report(judges=(judge(figures=order(50)),)))
    text = Reader(page).text
    assert "Order consistency 50 % warning" in text
    assert "Length-controlled ratio 4.4 (2.5 to 8.8)" in text
    assert page.index("often changes its choice") < page.index("<h1>")
    assert "Can the judge be trusted?" not in Reader(render_pairs_page(pairs_report())).text


def test_study_mode_is_labelled_in_notice_and_figures(page: str) -> None:
    found = render_pairs_page(judged_pairs_report(is_study_mode=True, games=None))
    assert found.index("in one order only, the baseline&#39;s post first") < found.index("<h1>")
    tag = '<span class="tag warning">study mode: one order</span>'
    for title in ("Figures", "Win ratio", "Tie-aware ratio", "Win rate", "Worst case", "Sign test", "tone"):
        assert f"{title} {tag}" in found, title
    assert "study mode" not in page


def test_pairs_that_share_prompts_cause_a_notice(page: str) -> None:
    found = render_pairs_page(judged_pairs_report(prompts=19))
    notice = Reader(found[: found.index("<h1>")]).text
    assert "95 pairs share 19 prompts" in notice
    assert "take the pairs as independent" in notice
    assert "independent" not in render_pairs_page(pairs_report(prompts=95)) + page


def test_pairs_that_were_not_judged_are_counted_and_listed(page: str) -> None:
    missing = {
        "post missing": tuple(str(number) for number in range(1, 31)),
        "prompt missing": ["x"],
    }
    text = Reader(render_pairs_page(judged_pairs_report(missing=missing))).text
    assert "post missing 30 1, 2, 3" in text
    assert "20 and 10 more" in text
    assert "prompt missing 1 x" in text
    assert 'id="missing"' not in page


def test_file_without_factors_pairs_or_posts_is_reported() -> None:
    text = Reader(render_pairs_page(pairs_report(levels={}, pairs=()))).text
    assert "The file names no factor" in text
    assert "The file holds no pairs." in text
    bare = pairs_report(pairs=(outer_pair(posts=("", "")),))
    assert "The file holds no posts: labels alone are shown." in Reader(render_pairs_page(bare)).text


def test_hostile_text_stays_text() -> None:
    data = pairs_report(
        source=HOSTILE,
        candidate=HOSTILE,
        baseline=HOSTILE,
        ignored=(HOSTILE,),
        levels={HOSTILE: {HOSTILE: compare(["win"])}},
        repairs=(Repair(HOSTILE, "win", 1, HOSTILE),),
        pairs=(outer_pair(HOSTILE, about=HOSTILE, values=(HOSTILE,), label=HOSTILE),),
    )
    read = Reader(render_pairs_page(data))
    assert len(read.scripts) == 2
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert "49" not in read.text.replace("49 ", "", 0) or "{{ 7 * 7 }}" in read.text


@pytest.mark.usefixtures("no_drawing")
def test_both_pages_share_policy_styles_and_script(page: str) -> None:
    from tests.helpers.reports import report

    other = render_page(report())
    assert Reader(page).scripts[1] == Reader(other).scripts[1]
    for start, end in (("<style>", "</style>"), ("<meta http-equiv", ">")):
        assert page[page.index(start) : page.index(end)] == other[other.index(start) : other.index(end)]


def test_ids_are_unique_links_lead_somewhere_and_controls_are_labelled(page: str) -> None:
    elements = Reader(page).elements
    ids = [given["id"] for _, given in elements if "id" in given]
    assert len(ids) == len(set(ids))
    assert {given["href"] for tag, given in elements if tag == "a"} <= {f"#{name}" for name in ids}
    labelled = {given["for"] for tag, given in elements if tag == "label"}
    assert {given["id"] for tag, given in elements if tag in ("select", "input")} == labelled


def test_same_data_gives_same_bytes(page: str) -> None:
    assert render_pairs_page(pairs_report()) == page
