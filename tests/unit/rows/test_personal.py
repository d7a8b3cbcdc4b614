"""E-mail addresses, phone numbers and card numbers are found, and what only looks like them is not."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from synthpost_dagster.rows.personal import KINDS, personal_data
from tests.helpers.varied_posts import varied_posts


@pytest.mark.parametrize(
    "address",
    [
        "ann@example.com",
        "Ann.Lee+posts@shop-one.co.uk",
        "a@b.co",
        "ann_lee@mail.example.museum",
        "x-1@sub.sub.example.org",
        "jürgen@grüße.de",
    ],
)
@pytest.mark.parametrize("around", ["{}", "Write to {}.", "({})", "<{}>", "mailto:{}?", "“{}”,"])
def test_email_address_is_found(address: str, around: str) -> None:
    assert personal_data(around.format(address), "US") == [("e-mail", address)]


@pytest.mark.parametrize(
    "text",
    ["@handle", "ann@localhost", "ann @ example.com", "ann at example.com", "example.com", "a@", "@b.co", "me@.com"],
)
def test_text_that_resembles_an_email_address_is_not_found(text: str) -> None:
    assert personal_data(text, "US") == []


@pytest.mark.parametrize(
    "number",
    [
        "212-736-5000",
        "(212) 736-5000",
        "212.736.5000",
        "2127365000",
        "1-800-225-5288",
        "+1 212 736 5000",
        "+44 20 7946 0958",
        "+41 44 668 18 00",
        "+49 30 901820",
    ],
)
@pytest.mark.parametrize("around", ["{}", "Call {} now!", "Tel.: {}\nMore"])
def test_phone_number_is_found(number: str, around: str) -> None:
    assert personal_data(around.format(number), "US") == [("phone", number)]


@pytest.mark.parametrize("number", ["736-5000", "555-0123", "012-345-6789", "212 736 50001", "+1 012 345 6789", "911"])
def test_number_that_is_no_valid_phone_number_is_none(number: str) -> None:
    assert personal_data(f"Call {number} now", "US") == []


@pytest.mark.parametrize(("region", "number"), [("CH", "044 668 18 00"), ("GB", "020 7946 0958"), ("DE", "030 901820")])
def test_national_phone_number_is_read_by_the_region(region: str, number: str) -> None:
    assert personal_data(number, region) == [("phone", number)]
    assert personal_data(number, "US") == []


@pytest.mark.parametrize(
    "number",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111111111111111",
        "5500 0000 0000 0004",
        "3782 822463 10005",
        "6011000990139424",
    ],
)
@pytest.mark.parametrize("around", ["{}", "Card {}.", "({})", "{}\nthanks"])
def test_card_number_is_found_and_is_no_phone_number(number: str, around: str) -> None:
    assert personal_data(around.format(number), "US") == [("card", number)]


@pytest.mark.parametrize(
    "number",
    [
        "4111 1111 1111 1112",  # the check digit is wrong
        "1111 1111 1111 1117",  # no card begins with 1
        "6666666666666",  # the check digit is right, but there is one digit only
        "4111  1111  1111  1111",  # two spaces
        "411111111111",  # too short
        "x4111111111111111",
        "41111111111111111111111",
    ],
)
def test_number_that_is_no_card_number_is_none(number: str) -> None:
    assert ("card", number) not in personal_data(number, "US")
    assert not [find for find in personal_data(number, "US") if find[0] == "card"]


@pytest.mark.parametrize(
    "text",
    [
        "2024 100 20",
        "Only $1,299.00, or 3 for $2,499.99!",
        "2@9.99, 3 for 25.50",
        "€1.000.000 in 10 years",
        "#2024 #1000000 #Fit4Life #24hours",
        "from 1999 to 2024, 100,000 sold",
        "2026-11-24 10:30-12:30",
        "10/12/2024 to 11/12/2025",
        "12 x 750 ml, 5 g, 1.5 kg, 100 %",
        "v1.2.3.4.5.6.7.8",
        "50% off 24/7/365",
        "1 800 FLOWERS",
        "",
        "🎉 مرحبا",
    ],
)
def test_prices_dates_hashtags_and_other_numbers_are_none(text: str) -> None:
    assert personal_data(text, "US") == []


@pytest.mark.parametrize("after", [" 12/27", " 123", ", 04/29"])
def test_card_number_before_a_date_or_code_is_found(after: str) -> None:
    assert ("card", "4111 1111 1111 1111") in personal_data(f"Card 4111 1111 1111 1111{after}", "US")


def test_findings_are_ordered_by_kind() -> None:
    text = "4111 1111 1111 1111, call (212) 736-5000 or +44 20 7946 0958, write to b@example.com or a@example.com"
    found = personal_data(text, "US")
    assert [kind for kind, _ in found] == ["e-mail", "e-mail", "phone", "phone", "card"]
    assert tuple(dict.fromkeys(kind for kind, _ in found)) == KINDS


def test_good_posts_and_packaged_prompts_have_no_personal_data(all_prompts: pd.DataFrame) -> None:
    texts = [*varied_posts(100), *all_prompts["teacher_prompt"].head(2_000), *all_prompts["student_prompt"].head(2_000)]
    assert [text for text in texts if personal_data(text, "US")] == []


@pytest.mark.parametrize("unit", ["1", "4111 ", "212-", "(1) ", "a@b.", "a.", "12/", "a@1.1"])
def test_text_of_20_kb_is_searched_in_time(unit: str) -> None:
    text = (unit * 20_000)[:20_000]
    start = time.process_time()
    personal_data(text, "US")
    assert time.process_time() - start < 5
