"""Near-duplicates are found as posts are added, by the exact Jaccard index of their word 3-grams."""

from __future__ import annotations

import random

import pytest

from synthpost_dagster.rows.duplicates import NearDuplicates, Neighbour, shingled
from tests.helpers.varied_posts import varied_posts


def numbered(count: int, start: int = 0) -> str:
    """A text of `count` different words."""
    return " ".join(f"w{at}" for at in range(start, start + count))


def jaccard(first: str, second: str) -> float:
    """As the definition says, in another way than the code's."""
    one, two = (
        {tuple(words[at : at + 3]) for at in range(len(words) - 2)} for words in (first.split(), second.split())
    )
    return len(one & two) / len(one | two)


def planted_pair(generator: random.Random) -> tuple[str, str]:
    """Two texts with a Jaccard index between 0.7 and 0.8: in the second, a run of the first's words is others."""
    while True:
        words = [f"w{generator.randrange(10**6)}" for _ in range(generator.randrange(20, 120))]
        length = generator.randrange(1, len(words) // 4)
        start = generator.randrange(len(words) - length + 1)
        others = [f"v{generator.randrange(10**6)}" for _ in range(length)]
        first, second = " ".join(words), " ".join(words[:start] + others + words[start + length :])
        if 0.7 <= jaccard(first, second) <= 0.8:
            return first, second


def test_posts_that_differ_are_all_added() -> None:
    index = NearDuplicates(0.7)
    assert [index.add_unless_near(str(at), post) for at, post in enumerate(varied_posts(200))] == [None] * 200


def test_near_duplicate_has_its_neighbour_and_the_exact_index() -> None:
    index = NearDuplicates(0.7)
    index.add_unless_near("a", numbered(40))
    index.add_unless_near("b", numbered(40, start=100))
    assert index.add_unless_near("c", numbered(38)) == Neighbour("a", 36 / 38)


def test_near_duplicate_is_not_added_to_the_index() -> None:
    index = NearDuplicates(0.7)
    chain = [numbered(40, start=start) for start in (0, 6, 12)]
    assert jaccard(chain[0], chain[1]) == jaccard(chain[1], chain[2]) > 0.7 > jaccard(chain[0], chain[2])
    assert index.add_unless_near("a", chain[0]) is None
    assert index.add_unless_near("b", chain[1]) is not None
    assert index.add_unless_near("c", chain[2]) is None


def test_nearest_of_several_is_named() -> None:
    index = NearDuplicates(0.7)
    index.add_unless_near("far", numbered(50))
    index.add_unless_near("near", numbered(50, start=10))
    asked = numbered(50, start=8)
    assert 0.7 < jaccard(numbered(50), asked) < jaccard(numbered(50, start=10), asked)
    assert index.add_unless_near("asked", asked) == ("near", 46 / 50)


@pytest.mark.parametrize(("words", "is_near"), [(29, False), (30, True), (31, True)])
def test_threshold_itself_is_near(words: int, is_near: bool) -> None:
    index = NearDuplicates(28 / 40)
    index.add_unless_near("a", numbered(42))
    assert (words - 2 >= 28) == is_near
    assert (index.add_unless_near("b", numbered(words)) is not None) == is_near


def test_threshold_of_one_requires_the_same_triples() -> None:
    index = NearDuplicates(1.0)
    index.add_unless_near("a", "x y z x y z x y")
    assert index.add_unless_near("b", "x y z x y z x") == Neighbour("a", 1.0)
    assert index.add_unless_near("c", "x y z x y z w") is None


def test_99_percent_of_planted_near_duplicates_are_found() -> None:
    generator, index = random.Random(5), NearDuplicates(0.7)
    pairs = [planted_pair(generator) for _ in range(500)]
    assert [index.add_unless_near(f"first {at}", first) for at, (first, _) in enumerate(pairs)] == [None] * 500
    found = 0
    for at, (first, second) in enumerate(pairs):
        neighbour = index.add_unless_near(f"second {at}", second)
        if neighbour:
            assert neighbour == (f"first {at}", jaccard(first, second))
            found += 1
    assert found >= 495


def test_results_are_deterministic() -> None:
    generator = random.Random(6)
    pairs = [planted_pair(generator) for _ in range(50)]
    found = []
    for _ in range(2):
        index = NearDuplicates(0.75)
        found.append([index.add_unless_near(f"{at}", text) for at, text in enumerate(sum(pairs, ()))])
    assert found[0] == found[1]


def test_post_under_the_same_key_is_no_near_duplicate() -> None:
    index = NearDuplicates(0.7)
    index.add_unless_near("a", numbered(40))
    assert index.add_unless_near("a", numbered(40)) is None
    assert index.add_unless_near("a", numbered(39)) is None
    assert index.add_unless_near("b", numbered(39)) == Neighbour("a", 37 / 38)


def test_post_is_compared_with_those_of_other_keys_alone() -> None:
    index = NearDuplicates(0.7)
    index.add_unless_near("a", numbered(60))
    assert index.add_unless_near("b", numbered(60, start=12)) is None
    between = numbered(60, start=6)
    for key, other in (("a", "b"), ("b", "a")):
        neighbour = index.add_unless_near(key, between)
        assert neighbour is not None
        assert neighbour.key == other
    assert index.add_unless_near("c", between) is not None


def test_post_equal_apart_from_case_is_no_near_duplicate() -> None:
    index = NearDuplicates(0.7)
    index.add_unless_near("a", numbered(40))
    assert index.add_unless_near("b", numbered(40).upper().replace(" ", ", ")) is None
    assert index.add_unless_near("c", numbered(39)) is not None


@pytest.mark.parametrize("text", ["", "one", "one two", "one two three"])
def test_text_of_three_words_or_fewer_is_one_shingle(text: str) -> None:
    assert shingled(text) == {text}


def test_repeated_shingle_counts_once() -> None:
    assert shingled("a b c d") == {"a b c", "b c d"}
    assert shingled("a a a a a") == {"a a a"}


def test_short_posts_are_near_only_where_they_are_the_same() -> None:
    index = NearDuplicates(0.7)
    shorts = ["", "!!!", "Buy", "Buy now", "Buy now!", "Buy it now", "Buy it now today"]
    assert [index.add_unless_near(str(at), post) for at, post in enumerate(shorts)] == [None] * len(shorts)


def test_posts_in_scripts_without_spaces_compare_by_character() -> None:
    index = NearDuplicates(0.7)
    post = "毎日の通勤を楽にする新しい自転車が登場しました。今すぐお近くの店でお試しください。"
    assert index.add_unless_near("a", post) is None
    near = index.add_unless_near("b", post.replace("新しい", "新型"))
    assert near is not None
    assert near.key == "a"
    assert (
        index.add_unless_near("c", "この水筒はとても軽くて丈夫です。週末のお出かけにぴったりの一本をどうぞ。") is None
    )
