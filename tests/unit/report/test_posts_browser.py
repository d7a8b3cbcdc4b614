"""What the page's script gets: every post whole and once, filters in order, games with reasons."""

from __future__ import annotations

import json
from typing import Any

import pytest

from synthpost_dagster.report.browser import Browser, pairs_browser, report_browser
from synthpost_dagster.report.data import Match
from synthpost_dagster.statistics.comparison import compare
from tests.helpers.reports import HOSTILE, A, B, game, outer_pair, pair, pairs_report, report

TITLE, ABOUT, LABEL, VALUES, POSTS, MATCHES = range(6)


def content(browser: Browser) -> Any:
    return json.loads(browser.content)


def of_pairs(*pairs: Any) -> Any:
    return content(report_browser(report(pairs=pairs), A))


def test_script_holds_the_whole_post_with_marks_for_unprintable_parts() -> None:
    browser = report_browser(report(pairs=(pair(HOSTILE),)), A)
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert shown in content(browser)["strings"]
    assert "<" not in browser.content
    browser.content.encode()


@pytest.mark.parametrize("text", ["", "عرض اليوم", "🎉👩‍🚀", "long " * 20_000, "line\u2028break\r\n\t"])
def test_any_post_reaches_the_script_unchanged(text: str) -> None:
    found = of_pairs(pair(text))
    assert found["strings"][found["rows"][0][POSTS][0]] == text


def test_text_of_many_cells_is_stored_once() -> None:
    found = of_pairs(pair(), pair(cell=B.key))
    assert len(found["strings"]) == len(set(found["strings"]))
    assert found["rows"][0][POSTS] == found["rows"][1][POSTS]


def test_filters_hold_each_value_once_in_the_order_of_the_task() -> None:
    pairs = (pair(cell=B.key, tone="Calm"), pair(tone="Witty"), pair(tone="Witty", company="Atlas"))
    browser = report_browser(report(pairs=pairs), A)
    filters = {one.name: [option.value for option in one.options] for one in browser.filters}
    assert filters == {
        "cell": ["88|50", "1760|50"],
        "post_type": ["Question"],
        "tone": ["Witty", "Calm"],
        "length": ["short"],
        "company": ["Atlas", "Bright Harbor"],
    }
    assert browser.filters[0].start == "88|50"
    assert browser.filters[0].options[1].label == "1,760 rows | 50 steps"
    first = content(browser)["rows"][0]
    assert first[VALUES] == [0, 0, 0, 0, 1], "cells in the order of the sweep"


def test_without_a_headline_all_cells_are_shown_first() -> None:
    assert report_browser(report(), None).filters[0].start == ""


def test_games_keep_judge_order_outcome_sentence_and_preferences() -> None:
    found = of_pairs(pair())
    pair_id, outcome, games = found["rows"][0][MATCHES][1]
    assert len(pair_id) == 16
    assert found["outcomes"][outcome] == "tie"
    judge, is_first, won, why, asked, picks = games[1]
    assert (found["strings"][judge], is_first, found["outcomes"][won]) == ("judge-model", 0, "loss")
    assert found["strings"][why] == "It opens with a hook."
    assert found["criteria"][asked] == ["hook", "call to action"]
    assert [found["outcomes"][int(pick)] for pick in picks] == ["win", "tie"]


def test_a_game_without_preferences_and_one_that_is_unscored_are_kept() -> None:
    games = (game(outcome="unscored", why="reply cut off", criteria=()),)
    found = of_pairs(pair(matches=(Match("0" * 16, "unscored", games),)))
    kept = found["rows"][0][MATCHES][0][2][0]
    assert (found["strings"][kept[3]], found["criteria"][kept[4]], kept[5]) == ("reply cut off", [], "")


def test_pairs_from_elsewhere_are_filtered_by_their_own_factors() -> None:
    pairs = (
        outer_pair(values=("Witty", "x")),
        outer_pair("8", values=("Calm", "y")),
    )
    levels = {factor: {"x": compare(["win"])} for factor in ("tone", "text")}
    browser = pairs_browser(pairs_report(pairs=pairs, levels=levels))
    assert [(one.name, one.title) for one in browser.filters] == [("tone", "tone"), ("text_", "text")]
    assert [option.value for option in browser.filters[0].options] == ["Calm", "Witty"]
    found = content(browser)
    assert found["columns"] == ["tuned", "untuned"]
    assert found["strings"][found["rows"][0][LABEL]] == "'tuned'"
    assert found["strings"][found["rows"][0][TITLE][0]] == "7"


def test_pairs_without_posts_show_labels_alone() -> None:
    browser = pairs_browser(pairs_report(pairs=(outer_pair(posts=("", "")),)))
    assert not browser.has_posts
    assert content(browser)["rows"][0][POSTS] == []
    assert pairs_browser(pairs_report(pairs=(), levels={})).filters == ()
