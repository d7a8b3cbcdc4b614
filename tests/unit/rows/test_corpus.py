"""Word n-grams of many texts in numpy, and the longest run of words that texts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpost_dagster.rows.corpus import Corpus, Shared, longest_shared
from synthpost_dagster.rows.diversity import distinct

TEXTS = st.lists(st.text("abc ", max_size=24).map(lambda letters: " ".join(letters.replace(" ", "\n"))), max_size=6)
"""Texts of single letters as words, some of them empty."""


def runs(text: str, size: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]


def all_runs(texts: list[str], size: int) -> list[tuple[str, ...]]:
    return [run for text in texts for run in runs(text, size)]


def longest_by_force(text: str, corpus: list[str]) -> tuple[int, int]:
    """Length of the longest shared run, and the first text of the corpus that holds a run of that length."""
    for size in range(len(text.split()), 0, -1):
        own = set(runs(text, size))
        for row, other in enumerate(corpus):
            if own & set(runs(other, size)):
                return size, row
    return 0, -1


def ngram_texts(corpus: Corpus, size: int) -> Iterator[tuple[str, ...]]:
    """The n-grams that stand where the corpus says that they begin."""
    words = {number: word for word, number in corpus.vocabulary.items()}
    for start in corpus.starts(size):
        yield tuple(words[int(number)] for number in corpus.words[start : start + size])


@given(TEXTS, st.integers(1, 5))
def test_ngrams_lie_within_one_text_in_order(texts: list[str], size: int) -> None:
    corpus = Corpus(texts)
    expected = all_runs(texts, size)
    assert list(ngram_texts(corpus, size)) == expected
    hashes = corpus.ngrams(size).tolist()
    assert len(hashes) == len(expected)
    assert len(set(zip(hashes, expected, strict=True))) == len(set(hashes)) == len(set(expected))


def test_no_ngram_crosses_from_one_text_into_the_next() -> None:
    corpus = Corpus(["a b", "", "c", "d e f"])
    assert list(ngram_texts(corpus, 2)) == [("a", "b"), ("d", "e"), ("e", "f")]
    assert list(ngram_texts(corpus, 3)) == [("d", "e", "f")]
    assert corpus.ngrams(4).size == 0


@pytest.mark.parametrize("texts", [[], [""], ["", "", ""], ["!!!", "🎉"]])
def test_texts_without_words_have_no_ngrams(texts: list[str]) -> None:
    corpus = Corpus(texts)
    assert len(corpus) == len(texts)
    assert corpus.ngrams(1).size == corpus.ngrams(3).size == corpus.starts(2).size == 0


def test_case_and_punctuation_make_no_other_word() -> None:
    corpus = Corpus(["Buy NOW!", "buy, now"])
    one, two = corpus.ngrams(2).tolist()
    assert one == two


def test_order_of_words_makes_another_ngram() -> None:
    assert len(set(Corpus(["a b", "b a", "a a", "b b"]).ngrams(2).tolist())) == 4


def test_corpora_of_one_vocabulary_tell_the_same_ngrams_alike() -> None:
    known = Corpus(["a b c"])
    other = Corpus(["x c b a b c"], known.vocabulary)
    assert known.ngrams(3).tolist() == other.ngrams(3).tolist()[-1:]
    assert known.ngrams(3).tolist()[0] not in other.ngrams(3).tolist()[:-1]


@given(TEXTS, st.integers(1, 4))
def test_distinct_is_the_share_of_different_ngrams(texts: list[str], size: int) -> None:
    expected = all_runs(texts, size)
    found = distinct(Corpus(texts), size)
    assert found == len(set(expected)) / len(expected) if expected else found != found


@given(TEXTS.filter(bool), st.data())
def test_part_has_the_ngrams_of_its_texts_in_the_given_order(texts: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5))
    part = Corpus(texts).part(rows)
    assert len(part) == len(rows)
    assert list(ngram_texts(part, 2)) == all_runs([texts[row] for row in rows], 2)


def test_row_of_a_word_is_its_text_and_never_an_empty_one() -> None:
    corpus = Corpus(["", "a b", "", "", "c", ""])
    assert [corpus.row_of(word) for word in range(3)] == [1, 1, 4]


@given(TEXTS, TEXTS)
def test_longest_shared_run_is_that_found_by_force(texts: list[str], corpus: list[str]) -> None:
    found = longest_shared(texts, corpus)
    assert [shared.words for shared in found] == [longest_by_force(text, corpus)[0] for text in texts]
    for text, shared in zip(texts, found, strict=True):
        if shared.words:
            run = tuple(shared.text.split())
            assert len(run) == shared.words
            assert run in runs(text, shared.words)
            assert run in runs(corpus[shared.row], shared.words)
            assert all(run not in runs(other, shared.words) for other in corpus[: shared.row])
        else:
            assert shared == Shared(0, -1, "")


def test_longest_run_can_be_the_whole_text_or_nothing() -> None:
    found = longest_shared(["Buy it, NOW!", "", "something else"], ["so buy it now then", "buy it"])
    assert found == [Shared(3, 0, "buy it now"), Shared(0, -1, ""), Shared(0, -1, "")]


def test_run_is_not_shared_across_two_texts_of_the_corpus() -> None:
    assert longest_shared(["a b c d"], ["x a b", "c d y"]) == [Shared(2, 0, "a b")]


@pytest.mark.parametrize(("texts", "corpus"), [([], []), ([], ["a"]), ([""], ["a"])])
def test_nothing_is_shared_where_there_is_nothing(texts: list[str], corpus: list[str]) -> None:
    assert longest_shared(texts, corpus) == [Shared(0, -1, "")] * len(texts)


def test_nothing_is_shared_with_an_empty_corpus() -> None:
    assert longest_shared(["a b"], []) == longest_shared(["a b"], ["", "!"]) == [Shared(0, -1, "")]


@pytest.mark.parametrize("words", [1, 7, 8, 9, 16, 40])
def test_run_is_extended_on_both_sides_of_its_seed(words: int) -> None:
    corpus = [" ".join(f"c{row}x{at}" for at in range(60)) for row in range(5)]
    copied = " ".join(corpus[3].split()[10 : 10 + words])
    found = longest_shared([f"before {copied} after", "nothing of it"], corpus)
    assert found == [Shared(words, 3, copied), Shared(0, -1, "")]
