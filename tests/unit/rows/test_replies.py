"""A raw reply becomes a post, or is rejected with a reason."""

from __future__ import annotations

import pytest

from synthpost_dagster.rows.replies import clean_reply, normalised


@pytest.mark.parametrize(
    ("raw", "post"),
    [
        ("  A post. \n", "A post."),
        ("Two\t\tspaces   and tabs.", "Two spaces and tabs."),
        ("Lines\nare\n\nkept.", "Lines\nare\n\nkept."),
        ("A NUL\x00 is gone.", "A NUL is gone."),
        ("مرحبا بكم! 🎉", "مرحبا بكم! 🎉"),
        ("a < b | c > d", "a < b | c > d"),
    ],
)
def test_a_good_reply_is_tidied_and_kept(raw: str, post: str) -> None:
    assert clean_reply(raw, "stop") == (post, "")


@pytest.mark.parametrize("raw", ["", "   ", "\n\t ", "\x00", " \x00 \n", "!!!", "🎉"])
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_reply_without_text_is_empty_however_it_ended(raw: str, finish: str) -> None:
    assert clean_reply(raw, finish) == ("", "empty")


def test_a_reply_that_was_cut_off_is_truncated_and_keeps_its_text() -> None:
    assert clean_reply("Half a sen", "length") == ("Half a sen", "truncated")


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|start_header_id|>user<|end_header_id|>", "</s>", "<s>", "[INST]"])
def test_a_reply_with_a_chat_special_token_is_rejected(token: str) -> None:
    assert clean_reply(f"A post. {token} More.", "stop").reason == "special token"


def test_posts_that_differ_in_case_space_and_punctuation_alone_are_the_same() -> None:
    assert normalised("Buy NOW: it’s\n great!!") == normalised("buy now — it’s great")
    assert normalised("GROẞE Größe") == normalised("grosse grösse")
    assert normalised("Buy now, it was great") != normalised("Buy now, it is great")


def test_a_100_kb_reply_is_handled() -> None:
    assert len(clean_reply("word " * 20_000, "stop").post) == 99_999
