"""A raw reply becomes a post, or is rejected with a reason."""

from __future__ import annotations

import time

import pytest

from synthpost_dagster.rows.rejection import clean_reply, normalised
from synthpost_dagster.schemas import STRIPPED


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
def test_good_reply_is_tidied_and_kept(raw: str, post: str) -> None:
    assert clean_reply(raw, "stop") == (post, "", "")


@pytest.mark.parametrize("raw", ["", "   ", "\n\t ", "\x00", " \x00 \n", "!!!", "🎉"])
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_reply_without_text_is_empty_however_it_ended(raw: str, finish: str) -> None:
    assert clean_reply(raw, finish) == ("", "empty", "")


def test_reply_of_quotes_alone_is_empty() -> None:
    assert clean_reply('""', "stop") == ("", "empty", "quotes")


def test_truncated_reply_is_rejected_and_keeps_its_text() -> None:
    assert clean_reply("Half a sen", "length") == ("Half a sen", "truncated", "")


@pytest.mark.parametrize("finish", ["content_filter", "invalid", "refused"])
def test_finish_reasons_of_endpoints_are_reasons_of_rejection(finish: str) -> None:
    cleaned = clean_reply("whatever it says", finish)
    assert cleaned.post == ""
    assert cleaned.reason


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|start_header_id|>user<|end_header_id|>", "</s>", "<s>", "[INST]"])
def test_reply_with_a_chat_special_token_is_rejected(token: str) -> None:
    assert clean_reply(f"A post. {token} More.", "stop").reason == "special token"


@pytest.mark.parametrize(
    ("raw", "post"),
    [
        ('"Ride on. Buy now!"', "Ride on. Buy now!"),
        ("“Ride on. Buy now!”", "Ride on. Buy now!"),
        ("«Ride on. Buy now!»", "Ride on. Buy now!"),
        ("“Say ‘yes’ to it!”", "Say ‘yes’ to it!"),
        ('  "Ride on.\n\nBuy now!"\n', "Ride on.\n\nBuy now!"),
        ('" Ride on. "', "Ride on."),
    ],
)
def test_outer_quotes_are_stripped_and_said(raw: str, post: str) -> None:
    assert clean_reply(raw, "stop") == (post, "", "quotes")


@pytest.mark.parametrize(
    "preamble",
    [
        "Here is a sales post for Harbour Cruiser: ",
        "Here's a witty social media post for Harbour Cruiser:\n\n",
        "Here’s the caption you asked for:\n",
        "here are some drafts and a post to go with them: ",
        "Sure! Here's your post:\n",
        "Sure, here is a tweet about it: ",
        "Certainly! Here is the post: ",
        "Of course. Here's a short post: ",
        "Absolutely! Here is your ad:\n\n",
        "Okay, here's the text: ",
        "Great! Here's one version:\n",
        "Sure,\n",
        "Sure!\n\n",
        "Sure thing!\n",
        "Certainly:\n",
        "OK.\n",
    ],
)
def test_preamble_is_stripped_and_said(preamble: str) -> None:
    assert clean_reply(f"{preamble}Ride on. Buy now!", "stop") == ("Ride on. Buy now!", "", "preamble")


@pytest.mark.parametrize("raw", ['Sure! Here\'s your post:\n\n"Ride on."', "Here is a post for X: “Ride on.”"])
def test_preamble_before_a_quoted_post_is_stripped(raw: str) -> None:
    assert clean_reply(raw, "stop") == ("Ride on.", "", "preamble and quotes")


def test_stripped_parts_are_levels_of_the_schema() -> None:
    wrapped = ["A.", '"A."', "```\nA.\n```", '"```\nA.\n```"']
    found = {clean_reply(before + raw, "stop").stripped for raw in wrapped for before in ("", "Sure!\n")}
    assert found == set(STRIPPED)


@pytest.mark.parametrize(
    ("raw", "stripped"),
    [
        ("```\nRide on.\n\nBuy now!\n```", "fence"),
        ("```markdown\nRide on.\n\nBuy now!\n```", "fence"),
        ("~~~\nRide on.\n\nBuy now!\n~~~", "fence"),
        ("```\nRide on.\n\nBuy now!", "fence"),
        ("Here it is:\n\n```\nRide on.\n\nBuy now!\n```", "fence and preamble"),
        ("Sure! Here you go:\n```text\nRide on.\n\nBuy now!\n```", "fence and preamble"),
        ("Here’s your post:\n```\nRide on.\n\nBuy now!\n```\n", "fence and preamble"),
        ('```\n"Ride on.\n\nBuy now!"\n```', "fence and quotes"),
    ],
)
def test_fence_around_the_whole_reply_is_stripped(raw: str, stripped: str) -> None:
    assert clean_reply(raw, "stop") == ("Ride on.\n\nBuy now!", "", stripped)


@pytest.mark.parametrize(
    "raw",
    [
        "Ride on. Use this:\n```\nSAVE20\n```\nBuy now!",
        "Ride on with code:\n```\nSAVE20\n```",
        "```\nSAVE20\n```\nBuy now with that code!",
        "```\nSAVE20\n```\nor\n```\nSAVE30\n```",
    ],
)
def test_fence_within_a_reply_stays(raw: str) -> None:
    assert clean_reply(raw, "stop") == (raw, "", "")


@pytest.mark.parametrize(
    ("raw", "finish", "cleaned"),
    [
        ("<think>\na plan\n</think>\n\nRide on.", "stop", ("Ride on.", "", "")),
        ("<thought>a plan</thought>\nSure!\nRide on.", "stop", ("Ride on.", "", "preamble")),
        ("a plan\n</think>\nRide on.", "stop", ("Ride on.", "", "")),
        ("<think>a plan</think>\nRide o", "length", ("Ride o", "truncated", "")),
        ("<think>a plan that never", "length", ("", "max_new_tokens spent on reasoning", "")),
        ("<think>a plan that never", "stop", ("", "ended without an answer", "")),
        ("", "reasoning", ("", "max_new_tokens spent on reasoning", "")),
        ("", "unanswered", ("", "ended without an answer", "")),
        ("I would rather not.", "refusal", ("I would rather not.", "refusal", "")),
        ("Half a te", "unknown:tired", ("Half a te", "unknown finish reason: tired", "")),
        ("", "unknown:tired", ("", "unknown finish reason: tired", "")),
        ("See this:", "part:image_url", ("See this:", "part of another kind: image_url", "")),
    ],
)
def test_reasoning_is_never_part_of_a_post(raw: str, finish: str, cleaned: tuple[str, str, str]) -> None:
    assert clean_reply(raw, finish) == cleaned


PARTS = [{"type": "thinking", "thinking": "let me see"}, {"type": "text", "text": "Ride “on”, it's\nnew."}]


@pytest.mark.parametrize(
    "refusal",
    ["I can’t help with that.", "I canʼt help with that.", "I′m sorry, but I can＇t help with that."],
)
def test_refusal_with_typographic_apostrophes_is_rejected(refusal: str) -> None:
    assert clean_reply(refusal, "stop").reason == "refusal"


def test_stripped_and_rejected_reply_records_both() -> None:
    assert clean_reply("Sure!\nBuy [Product] now.", "stop") == ("Buy [Product] now.", "placeholder", "preamble")
    assert clean_reply('Here is a post: "Half a sen', "length").reason == "truncated"


@pytest.mark.parametrize(
    "post",
    [
        "Here's why you will love it: it folds.",
        "Here are five reasons to ride: wind, sun, joy, speed and calm.",
        "Here it is: the bike you waited for.",
        "Sure to please! A tea for every morning.",
        "Sure! Buy now and ride today.",
        "Sure, winter is long. Rosehip is longer.",
        "Great taste\nand great price.",
        "Of course you can.\nBuy now.",
        "Okay everyone,\nit is here.",
        "We said: here is a post about you.",
        '"Best ever," says Ann. "I love it."',
        "“Best ever,” says Ann. “I love it.”",
        "«Best ever», says Ann. «I love it.»",
        '"Best ever," says Ann.',
        'Ann says: "I love it."',
        '"',
        "'Tis the season.",
        '5" of snow and a 29"',
    ],
)
def test_post_that_resembles_a_quotation_or_preamble_is_kept(post: str) -> None:
    assert clean_reply(post, "stop").stripped == ""
    assert clean_reply(post, "stop").post in (post, "")


@pytest.mark.parametrize(
    "raw",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t help with that.",
        "I am very sorry, I cannot write this post.",
        "Sorry, I can't do that.",
        "Sorry, but as an AI I am unable to write advertisements.",
        "I apologize, but I won't be writing this.",
        "Unfortunately, I am not able to create content about it.",
        "I cannot assist with this request.",
        "I can't help you with this.",
        "I can't help with writing posts like that.",
        "I won't create that.",
        "I am unable to provide a post.",
        "As an AI language model, I have no opinion.",
        "As an AI, I cannot promote products.",
        "as an AI assistant I must decline",
    ],
)
def test_refusal_is_rejected(raw: str) -> None:
    assert clean_reply(raw, "stop").reason == "refusal"


@pytest.mark.parametrize(
    "post",
    [
        "Sorry, boredom: the Harbour Cruiser is here.",
        "Sorry to keep you waiting! It is back.",
        "I can't help loving this bike!",
        "I can't help but smile when I ride it.",
        "I can't wait to ride it.",
        "I cannot recommend it enough.",
        "I'm sorry I waited so long to buy one.",
        "Unfortunately, winter is coming. Our tea helps.",
        "As an AI-powered kettle, it knows your morning.",
        "As an aid for cold mornings, nothing beats tea.",
        "Can't decide? I won't tell.",
        "You asked. I'm sorry, I can't stop riding!",
    ],
)
def test_post_that_only_looks_like_a_refusal_is_kept(post: str) -> None:
    assert clean_reply(post, "stop") == (post, "", "")


@pytest.mark.parametrize(
    "placeholder",
    [
        "[Name]",
        "[Your Company]",
        "[insert link here]",
        "{{product}}",
        "{{ company.name }}",
        "<insert link>",
        "<Name>",
        "<your website>",
        "[LINK]",
        "[código]",
        "{product}",
        "(insert number)",
        "___",
    ],
)
def test_placeholder_is_rejected(placeholder: str) -> None:
    assert clean_reply(f"Ride on with {placeholder} today.", "stop").reason == "placeholder"


@pytest.mark.parametrize(
    "text",
    [
        "as proven [1]",
        "[shop now](http://x)",
        "a [b in text",
        "a b] in text",
        "[]",
        "[ 12, 13 ]",
        "I <3 it",
        "<b>now</b>",
        "x < y > z",
        f"[{'long words ' * 5}]",
    ],
)
def test_brackets_that_hold_no_place_are_kept(text: str) -> None:
    assert clean_reply(f"Ride on, {text} today.", "stop").reason == ""


def test_posts_equal_apart_from_case_and_punctuation_are_the_same() -> None:
    assert normalised("Buy NOW: it’s\n great!!") == normalised("buy now — it’s great")
    assert normalised("GROẞE Größe") == normalised("grosse grösse")
    assert normalised("Buy now, it was great") != normalised("Buy now, it is great")


@pytest.mark.parametrize("unit", ["word ", "here is a ", "sure! ", 'a " ', "[ a", "{{a", "<name ", "i can't ", "a <| "])
def test_long_reply_is_cleaned_in_linear_time(unit: str) -> None:
    raw = (unit * 100_000)[:100_000]
    start = time.process_time()
    cleaned = clean_reply(raw, "stop")
    assert time.process_time() - start < 2
    assert (len(cleaned.post) > 90_000, cleaned.reason) == (True, "")


@pytest.mark.parametrize(
    "post",
    [
        "Here is our latest version: lighter, faster.",
        "Here's a message from our founder: tea takes time.",
        "Here's the ad-free way to listen: Hummingfell.",
        "'Best ever,' says Ann. 'I love it.'",
        "'Tis the season for rockin'",
        "Unfortunately, I can't stop eating these! Grab yours.",
    ],
)
def test_post_that_only_looks_like_chatter_is_left_alone(post: str) -> None:
    assert clean_reply(post, "stop") == (post, "", "")


def test_reply_that_is_a_preamble_alone_is_empty() -> None:
    assert clean_reply("Sure! Here's your post:", "stop") == ("", "empty", "preamble")


@pytest.mark.parametrize("reply", ['"Sure! Here is your post: Buy now."', "**Here's a post:** Buy now."])
def test_preamble_and_quotes_are_stripped_in_any_order(reply: str) -> None:
    assert clean_reply(reply, "stop").post == "Buy now."


def test_label_in_brackets_at_the_beginning_is_no_placeholder() -> None:
    assert clean_reply("[Limited Edition] Get it now!", "stop").reason == ""
    assert clean_reply("[Your Company] is proud.", "stop").reason == "placeholder"


@pytest.mark.parametrize(
    "preamble",
    [
        "Sure, I'd be happy to help! Here's a post for Acme:\n\n",
        "I'd be happy to help! Here's a promotional post for Acme:\n\n",
        "Here is a post for Acme.\n\n",
        "Here is another option:\n",
        "Here is my attempt at a witty post:\n",
        "**Caption:** ",
        "Post:\n",
        "Here’s the sales post for the product Trailer: Burrow:\n\n",
    ],
)
def test_only_the_preamble_of_a_two_line_post_is_stripped(preamble: str) -> None:
    assert clean_reply(f"{preamble}Ride on: today.\nBuy now!", "stop") == ("Ride on: today.\nBuy now!", "", "preamble")


@pytest.mark.parametrize(
    "reply",
    [
        "I'm afraid I can't help with that.",
        "Sorry, I can't",
        "I must decline.",
        "Unfortunately, I am unable to complete this request.",
    ],
)
def test_refusal_in_few_words_is_one(reply: str) -> None:
    assert clean_reply(reply, "stop").reason == "refusal"


def test_post_about_a_clever_scale_is_no_refusal() -> None:
    assert clean_reply("As an AI powered scale it tells you more.", "stop").reason == ""


@pytest.mark.parametrize(
    "token",
    ["<think>The user</think>", "<end_of_turn>", "<eos>", "<｜end▁of▁sentence｜>", "</s>", "<|eot_id|>", "[INST]"],
)
def test_special_token_of_any_usual_template_is_rejected(token: str) -> None:
    assert clean_reply(f"Buy now {token}", "stop").reason == "special token"
