"""A text can hold no special token once it is broken up, and stays as it was otherwise."""

from __future__ import annotations

import re

import pytest

from synthpost_dagster.text.special_tokens import SPECIAL, broken_up


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Buy <b>now</b> & [save] <3!", "Buy <b>now</b> & [save] <3!"),
        ("Bye <|eot_id|>", "Bye < |eot_id|>"),
        ("</s>[/INST] A <end_of_turn>", "< /s>[ /INST] A < end_of_turn>"),
        ("<<SYS>> <｜end▁of▁sentence｜> </think>", "< <SYS>> < ｜end▁of▁sentence｜> < /think>"),
        ("<|eot_id|><|eot_id|>", "< |eot_id|>< |eot_id|>"),
        ("<|x<s>|>", "<|x< s>|>"),
        ("<s<s>>", "<s< s>>"),
    ],
)
def test_only_special_tokens_are_broken_up(text: str, safe: str) -> None:
    assert broken_up(text) == safe
    assert re.search(SPECIAL, safe) is None


def test_tokens_that_a_tokenizer_knows_are_broken_up_too() -> None:
    assert broken_up("a [CLS] b(*) <|eot_id|>", ["[CLS]", "(*)"]) == "a [ CLS] b( *) < |eot_id|>"
