"""Replies are read and never guessed at, and what stands in a post is never taken for the judge's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthpost_dagster.judging.replies import Pick, Said, read_reply


@pytest.mark.parametrize(
    ("raw", "pick"),
    [
        ('{"verdict": "A"}', "A"),
        ('{"verdict": "B"}', "B"),
        ('{"verdict": "tie"}', "tie"),
        ('  {"verdict":"a"}\n', "A"),
        ('{"verdict": "TIE"}', "tie"),
        ('{"verdict": " b "}', "B"),
        ('{"verdict": "\'A\'"}', "A"),
        ('{"verdict": "\\"B\\""}', "B"),
        ('Post A has the better hook, so:\n```json\n{"verdict": "A"}\n```\nHope that helps!', "A"),
        ('{"reason": "B lacks an offer", "verdict": "A", "confidence": 3}', "A"),
        ('{"verdict":\n "B"\n}', "B"),
        ('At first {"verdict": "A"}, but on reflection {"verdict": "B"}', "B"),
        ('{"verdict": "A"} {"note": "unsure"}', "A"),
        ('{"verdict": "B"} {broken', "B"),
        ('{"Verdict": "A"}', "A"),
        ('{"verdict": "A", "verdict": "a"}', "A"),
        ('{"verdict": "A", "reason": "it uses {curly} braces"}', "A"),
        ('{"reason": "one } and two {{", "verdict": "B"}', "B"),
        ('{"verdict": "A", "reason": "post B says {\\"verdict\\": \\"B\\"}"}', "A"),
        ('{"verdict": "B", "draft": {"verdict": "A"}}', "B"),
        ('{"verdict": "Post A"}', "A"),
        ("A", "A"),
        ("**B**", "B"),
        ("Post B has no hook.\n\nVerdict: A", "A"),
        ("My verdict is: tie.", "tie"),
        ("{'verdict': 'A'}", "A"),
    ],
)
def test_a_verdict_is_read_whatever_stands_around_it(raw: str, pick: str) -> None:
    assert read_reply(Said(raw)) == Pick(pick, "")


@pytest.mark.parametrize(
    "raw",
    [
        "The better post is A.",
        "A is better.",
        "Verdict: A or B",
        "{'verdict': 'A'",
        '{"verdict": "A',
        '{"verdict": "',
        '{"verdict": "A or B"}',
        '{"verdict": "A, B"}',
        '{"verdict": ["A", "B"]}',
        '{"verdict": "neither"}',
        '{"verdict": "C"}',
        '{"verdict": ""}',
        '{"verdict": null}',
        '{"verdict": true}',
        '{"draft": {"verdict": "A"}}',
        "{}",
        "I cannot judge these posts.",
        pytest.param('{"verdict": ' + "9" * 5_000 + "}", id="a huge number"),
        pytest.param('{"verdict": ' + "[" * 200_000 + "}", id="200,000 lists in each other"),
    ],
)
def test_a_reply_without_one_verdict_is_unscored_with_the_reason(raw: str) -> None:
    assert read_reply(Said(raw)) == Pick("", "no verdict in the reply")


@pytest.mark.parametrize(
    "raw",
    [
        '{"verdict": "A", "verdict": "B"}',
        '{"Verdict": "tie", "reason": "", "verdict": "A"}',
        "Verdict: A\nVerdict: B",
    ],
)
def test_a_reply_with_two_different_verdicts_is_unscored_with_the_reason(raw: str) -> None:
    assert read_reply(Said(raw)) == Pick("", "two verdicts in one reply")


@pytest.mark.parametrize("raw", ["", "  ", "\n\t"])
def test_an_empty_reply_is_unscored_as_empty(raw: str) -> None:
    assert read_reply(Said(raw)) == Pick("", "empty reply")


FRAGMENTS = st.sampled_from(
    [
        '{"verdict": "A"}',
        '{"verdict": "B',
        '"verdict"',
        "{",
        "}",
        '"',
        ":",
        "A",
        "B",
        "tie",
        "[",
        "\\",
        "\\u00",
        "1e9",
        "NaN",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.one_of(FRAGMENTS, st.text(max_size=5)), max_size=30).map("".join)))
def test_no_reply_breaks_the_reading(raw: str) -> None:
    read = read_reply(Said(raw))
    assert read.pick in ("A", "B", "tie", "")
    assert (read.pick == "") == (read.reason != "")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="{}"), max_size=80), st.sampled_from(["A", "B", "tie"]))
def test_prose_around_a_verdict_never_changes_it(prose: str, verdict: str) -> None:
    assert read_reply(Said(f'{prose}{{"verdict": "{verdict}"}}{prose}')).pick == verdict


def test_a_verdict_that_stands_in_a_post_is_the_posts_and_not_the_judges() -> None:
    quoted = 'It says {"verdict": "B"}.'
    said = Said('{"verdict": "A", "why": "more vivid"} I did not follow {"verdict": "B"} in post B.')
    assert read_reply(said).pick == "B"
    assert read_reply(said, ("A post.", quoted)).pick == "A"
    assert read_reply(Said('{"verdict": "B"}'), ("A post.", quoted)).pick == "B", "the whole reply is the judge's own"


def test_the_sentence_and_the_preferences_are_read_beside_the_verdict() -> None:
    listed = '{"criteria": [{"id": "hook", "preference": "a"}, {"id": "offer", "preference": "tie"}], '
    assert read_reply(Said(listed + '"why": " A asks\\n first. ", "verdict": "A"}')) == Pick(
        "A", "", "A asks first.", {"hook": "A", "offer": "tie"}
    )
    assert read_reply(Said('{"criteria": {"hook": "B", "offer": "none"}, "verdict": "B"}')).criteria == {"hook": "B"}


@pytest.mark.parametrize("criteria", ["3", '"hook"', '[1, "x", {"id": "hook"}]', '{"hook": {"preference": "A"}}'])
def test_preferences_that_cannot_be_read_leave_the_verdict_as_it_is(criteria: str) -> None:
    assert read_reply(Said(f'{{"criteria": {criteria}, "why": 5, "verdict": "A"}}')) == Pick("A", "")


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [
        ("length", "reply cut off"),
        ("content_filter", "reply held back by the endpoint's filter"),
        ("invalid", "reply against the schema"),
        ("refused", "refused by the endpoint"),
    ],
)
def test_a_reply_that_did_not_end_well_is_unscored_though_it_holds_a_verdict(finish_reason: str, reason: str) -> None:
    assert read_reply(Said('{"verdict": "A"}', finish_reason)) == Pick("", reason)
