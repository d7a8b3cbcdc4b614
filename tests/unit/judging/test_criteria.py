"""Each kind of check, on posts that meet it and posts that do not."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from pydantic import TypeAdapter

from synthpost_dagster.errors import SpecError
from synthpost_dagster.judging import criteria
from synthpost_dagster.judging.criteria import criteria_met, meets, sentences, unscored_reason, without_hashtags
from synthpost_dagster.judging.judges import Rubric
from synthpost_dagster.judging.verdicts import Game, play
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.tasks.checks import Check
from synthpost_dagster.tasks.task import Brief, Task
from tests.helpers.small_task import EditTask, product_of

ARABIC = "مرحبا بكم في متجرنا. اشتر الآن!"


def check_of(**fields: object) -> Check:
    check: Check = TypeAdapter(Check).validate_python(fields)
    return check


def brief_of(task: Task, post_type: str = "Promotional") -> Brief:
    """Pedrowick's Harbour Cruiser."""
    return Brief(task.items[0], (post_type, "Witty"))


@pytest.mark.parametrize(
    ("post", "found"),
    [
        ("", []),
        ("   \n \n", []),
        ("!!! ... ?", []),
        ("🎉🎉 💯", []),
        ("#sale #spring", []),
        ("One sentence", ["One sentence"]),
        ("One. Two! Three? Four…", ["One.", "Two!", "Three?", "Four…"]),
        ("Only 3.5 km and $1,299.99 away.", ["Only 3.5 km and $1,299.99 away."]),
        ("Version 2.0 is here. Try it.", ["Version 2.0 is here.", "Try it."]),
        ('She said "I love it." Then she left.', ['She said "I love it."', "Then she left."]),
        ("“I love it.” Then she left.", ["“I love it.”", "Then she left."]),
        ("It works (really.) Try it.", ["It works (really.) Try it."]),
        ("Really?! Wow!!! Yes...", ["Really?", "Wow!", "Yes..."]),
        ("A line\nAnother line\n\nA third", ["A line", "Another line", "A third"]),
        ("Buy now. 🎉 🎉", ["Buy now."]),
        ("Buy now. #sale #two", ["Buy now."]),
        ("Visit shop.example today.", ["Visit shop.example today."]),
        (ARABIC, ["مرحبا بكم في متجرنا.", "اشتر الآن!"]),
    ],
)
def test_post_is_split_into_its_sentences(post: str, found: list[str]) -> None:
    assert sentences(post, "en") == found


@pytest.mark.parametrize(
    ("post", "left"),
    [("Now #sale!", "Now !"), ("C# is no tag", "C# is no tag"), ("#größe_1 x", " x"), ("# alone", "# alone")],
)
def test_only_hashtags_are_removed(post: str, left: str) -> None:
    assert without_hashtags(post) == left


OPENING = {"kind": "opening", "max_words": 3}
PHRASES = {"kind": "phrases", "any": ["buy", "sign up", "you'll"]}
PATTERN = {"kind": "pattern", "regex": r"\d+ ?%|half price"}
HASHTAG = {"kind": "hashtag", "min": 1, "max": 2}
QUESTION = {"kind": "question", "min": 2}
NUMBER = {"kind": "number", "min": 2}
COMPANY = {"kind": "names", "of": ["company.name"]}
BOTH = {"kind": "names", "of": ["company.name", "name"]}
QUOTE = {"kind": "quote", "min_words": 3}


@pytest.mark.parametrize(
    ("check", "post", "is_met"),
    [
        (OPENING, "Stop right there. Then we go on for many more words.", True),
        (OPENING, "This is a long and plain start. Go.", False),
        (OPENING, "Is this not a long and winding start? Go.", True),
        (OPENING, "What a long and winding start this is! Go.", True),
        (OPENING, "“What a long and winding start this is!” Go.", True),
        (OPENING, "#tags #do #not #count Big news. And then much more.", True),
        (OPENING, "A short line\nand a second line that is longer", True),
        (OPENING, "Only 3.5 km from you now.", False),
        (OPENING, "", False),
        (OPENING, "🎉", False),
        (OPENING, "...", False),
        (OPENING, "#only #tags", False),
        (OPENING, "🎉\nThen a long first line that goes on and on.", False),
        (PHRASES, "Buy it.", True),
        (PHRASES, "BUY!", True),
        (PHRASES, "The buyer buys.", False),
        (PHRASES, "Please sign up, friend", True),
        (PHRASES, "Please sign upward", False),
        (PHRASES, "You'll see", True),
        (PHRASES, "You’ll see", True),
        (PHRASES, "Please sign\nup, friend", True),
        (PHRASES, "re-buy", True),
        (PHRASES, "", False),
        (PHRASES, ARABIC, False),
        (PATTERN, "Take 20% off", True),
        (PATTERN, "HALF PRICE", True),
        (PATTERN, "Take 20 off", False),
        (PATTERN, "", False),
        (HASHTAG, "No tag", False),
        (HASHTAG, "One #tag", True),
        (HASHTAG, "#one#two", True),
        (HASHTAG, "#one #two", True),
        (HASHTAG, "#one #two #three", False),
        (HASHTAG, "C# and # alone", False),
        (HASHTAG, "#größe", True),
        (HASHTAG, "#تخفيضات", True),
        (HASHTAG, "#🎉", False),
        (HASHTAG, "See shop.example/#top and we are #1", False),
        (QUESTION, "Who? Me?", True),
        (QUESTION, "Who are you? Me.", False),
        (QUESTION, "Really??? Yes.", False),
        (QUESTION, "See https://x.example/?a=1&b=2 now. Right?", False),
        (QUESTION, "هل تريد؟ لم لا؟", True),
        (QUESTION, "", False),
        (NUMBER, "3.5 and 1,000,000 more", True),
        (NUMBER, "3.5 only", False),
        (NUMBER, "$20 or €3", True),
        (NUMBER, "v2 and #3", False),
        (NUMBER, "20% of 100 people", True),
        (NUMBER, "", False),
        (COMPANY, "From PEDROWICK with love", True),
        (COMPANY, "Pedrowick's best", True),
        (COMPANY, "#Pedrowick", True),
        (COMPANY, "Pedrowicks", False),
        (COMPANY, "", False),
        (BOTH, "The Harbour Cruiser by Pedrowick.", True),
        (BOTH, "The Harbour Cruiser.", False),
        (BOTH, "Pedrowick #HarbourCruiser", False),
        (QUOTE, 'He said "I love this bike" to us.', True),
        (QUOTE, "He said “I love this bike.” Twice.", True),
        (QUOTE, 'He said "love it" and "buy it".', False),
        (QUOTE, "It's the firm's own.", False),
        (QUOTE, 'An "open quote of many words', False),
        (QUOTE, 'A 5" screen and a 6" frame.', False),
        (QUOTE, "", False),
    ],
)
def test_check_is_met_or_not(sales_posts: Task, check: dict[str, object], post: str, is_met: bool) -> None:
    assert meets(check_of(**check), post, brief_of(sales_posts), sales_posts) is is_met


@pytest.mark.parametrize(
    ("post_type", "met_by"),
    [("Promotional", {1, 2, 3}), ("Educational", {4, 5, 6}), ("Interactive", {7, 8, 9, 10})],
)
def test_length_check_goes_by_the_types_length(sales_posts: Task, post_type: str, met_by: set[int]) -> None:
    brief = brief_of(sales_posts, post_type)
    check = check_of(kind="length")
    met = {n for n in range(11) if meets(check, "A word. " * n + "#tag #tag", brief, sales_posts)}
    assert met == met_by


def test_check_that_only_a_judge_can_make_is_neither_met_nor_missed(sales_posts: Task) -> None:
    brief = brief_of(sales_posts, "Feature Highlight")
    assert meets(check_of(kind="judge"), "anything", brief, sales_posts) is None
    found = criteria_met("anything", brief, sales_posts)
    assert "vivid_language" not in found
    assert "concrete_feature" in found


def test_criteria_are_the_universal_ones_and_the_types_own(sales_posts: Task) -> None:
    post = "Ready? The Harbour Cruiser from Pedrowick, only here, so you ride free. Order today for 20% off! #Ride"
    assert criteria_met(post, brief_of(sales_posts), sales_posts) == {
        "hook": True,
        "concise": True,
        "call_to_action": True,
        "benefits": True,
        "unique_selling_point": True,
        "consistent_branding": True,
        "platform_use": True,
        "offer": True,
        "urgency": False,
        "exclusivity": False,
    }


def test_phrases_of_one_criterion_are_not_those_of_another(sales_posts: Task) -> None:
    brief = brief_of(sales_posts)
    assert meets(check_of(kind="phrases", any=["tea"]), "tea", brief, sales_posts)
    assert not meets(check_of(kind="phrases", any=["coffee"]), "tea", brief, sales_posts)


def test_empty_post_meets_no_criterion(sales_posts: Task) -> None:
    for kind in sales_posts.spec.factors["post_type"].levels:
        found = criteria_met("", brief_of(sales_posts, kind), sales_posts)
        assert found
        assert set(found.values()) == {False}


@pytest.mark.parametrize("post", ["\x00", "word " * 20_000, "\u202e" + ARABIC, "🎉" * 10_000, "#" * 5_000, '"' * 5_000])
def test_strange_posts_are_checked_like_any_other(sales_posts: Task, post: str) -> None:
    for kind in sales_posts.spec.factors["post_type"].levels:
        assert all(
            isinstance(met, bool) for met in criteria_met(post, brief_of(sales_posts, kind), sales_posts).values()
        )


def test_unicode_twins_score_the_same(edit_task: EditTask) -> None:
    def rename(products: Any) -> None:
        product_of(products)["name"] = "Rider's Built-In Harbour"

    task = edit_task("products.yaml", rename)
    straight = "Ready? You'll love Pedrowick's Rider's Built-In Harbour, today only: \"so good we bought two\" #Größe"
    twins = [
        straight.replace("'", "’"),
        straight.replace("'", "ʼ").replace('"', "“"),
        straight.replace("-", "\u2011").replace(" Harbour", "\u00a0Harbour"),
        straight.replace("Harbour", "Har\u200bbour").replace("#", "＃"),
        unicodedata.normalize("NFD", straight),
    ]
    for kind in task.spec.factors["post_type"].levels:
        brief = brief_of(task, kind)
        met = criteria_met(straight, brief, task)
        assert met["consistent_branding"]
        assert [criteria_met(twin, brief, task) for twin in twins] == [met] * len(twins)


@pytest.mark.parametrize("pattern", ["you’ll", "you'll", r"you\u2019ll", "you[’‘]ll", r"you\’ll", "(?i)YOU.LL"])
@pytest.mark.parametrize("post", ["You’ll see", "You'll see", "Youʼll see"])
def test_pattern_is_found_whichever_apostrophe_it_and_the_post_have(sales_posts: Task, pattern: str, post: str) -> None:
    assert meets(check_of(kind="pattern", regex=pattern), post, brief_of(sales_posts), sales_posts) is True


@pytest.mark.parametrize(
    ("pattern", "post", "is_met"),
    [
        ("[a–z]", "b", False),
        ("[a–z]", "a—", True),
        ("[‐-―]", "now — here", True),
        (r"\\–", "\\–", True),
        (r"\d+\?", "5？", True),
    ],
)
def test_characters_of_a_pattern_keep_their_meaning(sales_posts: Task, pattern: str, post: str, is_met: bool) -> None:
    assert meets(check_of(kind="pattern", regex=pattern), post, brief_of(sales_posts), sales_posts) is is_met


BACKTRACKING = r"(a|aa)+$"


def test_pattern_that_backtracks_leaves_its_criterion_unscored(
    edit_task: EditTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criteria, "MAX_PATTERN_SECONDS", 0.01)
    check = {"kind": "pattern", "regex": BACKTRACKING}
    task = edit_task("task.yaml", lambda content: content["criteria"]["offer"].update(check=check))
    brief = brief_of(task)
    criteria._pattern.cache_clear()
    met = criteria_met("a" * 40 + "!", brief, task)
    assert "offer" not in met
    assert unscored_reason(met, brief, task) == (
        f"criterion offer: its pattern {BACKTRACKING!r} takes more than 0.01 s"
    )
    (played,) = play(task, Rubric(task), [Game(brief, "a" * 40 + "!", "aaa", True)], SILENT)
    assert (played.verdict.pick, played.verdict.reason) == ("", unscored_reason(met, brief, task))
    with pytest.raises(SpecError, match=r"criterion offer: its pattern .* for 5 posts"):
        for length in range(41, 46):
            criteria_met("a" * length + "!", brief, task)


def test_language_of_the_task_counts_its_sentences(edit_task: EditTask) -> None:
    check = check_of(kind="length")
    german = edit_task("task.yaml", lambda content: content.update(language="de"))
    lines = "Leicht, z. B. im Mai. Weich, z. B. im Juni. Neu."
    assert meets(check, lines, brief_of(german), german) is True
