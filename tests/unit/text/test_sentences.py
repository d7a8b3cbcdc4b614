"""Sentences are counted as a reader of the language counts them, in text of any length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synthpost_dagster.text.sentences import MAX_BLOCK, sentences


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("en", "Dear Mrs. Jones, your bike is ready.", 1),
        ("en", "We open at 8 a.m. and close at 6 p.m. on weekdays.", 1),
        ("en", "Ask Dr. Brown, e.g. after lunch. He knows!", 2),
        ("en", "Only $9.99 today. That is 7.5 % less.", 2),
        ("en", "1. Turn it on. 2. Wait.", 2),
        ("en", "Who? You! Go on...", 3),
        ("en", "Wow!!! Yes! Really?! OK.", 4),
        ("en", "See https://shop.example/?a=1&b=2. Right?", 2),
        ("en", 'She wrote "I love it." 7 out of 10 agree.', 2),
        ("en", "Ready? 🎉 Go! 🎉🎉\n\n🎉", 2),
        ("en", "A line\r\nAnother line", 2),
        ("en", "مرحبا؟ نعم؟", 2),
        ("en-GB", "Mr. Smith came.", 1),
        ("de", "Leichte Schuhe, z. B. für den Sommer.", 1),
        ("de-AT", "Wiegt ca. 3,5 kg. Passt bzw. hält.", 2),
        ("de", "Am 3. Mai geht es los. Kommen Sie um 9 Uhr!", 2),
        ("fr", "M. Dupont est là. Il attend.", 2),
        ("ja", "新しい靴ですか？はい。今すぐどうぞ！", 3),
        ("zh-Hant", "這雙鞋很輕。現在買吧！", 2),
        ("ar", "مرحبا بكم في متجرنا. اشتر الآن!", 2),
        ("pt-BR", "O Sr. Silva chegou. Ele voltou!", 2),
        ("ko", "안녕하세요. 지금 주문하세요!", 2),
        ("sv", "Nu 4.5 kg lättare. Välkommen!", 2),
        ("hi", "यह नया है। अभी खरीदें!", 2),
    ],
)
def test_sentences_are_those_of_the_language(language: str, text: str, count: int) -> None:
    assert len(sentences(text, language)) == count


@pytest.mark.parametrize("text", ["", " \n ", "!!! ...", "🎉", "." * 5_000, '"' * 5_000, "(" * 100_000])
def test_text_without_a_word_has_no_sentence(text: str) -> None:
    assert sentences(text, "en") == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Mr. Smith came home. " * 5_000, 5_000),
        ("x" * 100_000, 1),
        ("a\n" * 5_000, 5_000),
        ("word " * 20_000, 1),
    ],
)
def test_long_text_is_counted_block_by_block(text: str, count: int) -> None:
    assert len(text) > MAX_BLOCK
    assert abs(len(sentences(text, "en")) - count) <= count / 50


def test_long_japanese_text_without_spaces_is_counted() -> None:
    assert len(sentences("毎日です。" * 1_000, "ja")) == 1_000


def test_segmenters_are_imported_late_and_without_warnings(tmp_path: Path) -> None:
    code = (
        "import sys; from synthpost_dagster.text.sentences import sentences; assert 'pysbd' not in sys.modules; "
        "print(len(sentences('Mr. Lee is in. Go!', 'en')), len(sentences('Oi. Vá.', 'pt')))"
    )
    arguments = [sys.executable, "-W", "error", "-X", f"pycache_prefix={tmp_path}", "-B", "-c", code]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["2", "2"], "")
