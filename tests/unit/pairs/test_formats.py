"""Files of other tools, labels that name places, and weighted preferences are read as their writers meant them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs.formats import ALPACA_MEANING
from synthpost_dagster.pairs.labels import Meaning, Read
from synthpost_dagster.pairs.places import names_places, read_place
from synthpost_dagster.pairs.preferences import guessed_scale
from synthpost_dagster.pairs.table import (
    Contradictions,
    Order,
    contradictions,
    game_outcomes,
    outcomes,
    read_pairs,
    repairs,
)


def written(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def arena_file(folder: Path, *scores: tuple[str | None, str | None], **more: Any) -> Path:
    records = [
        {
            "uid": f"q{place}",
            "category": ["math", "prose"][place % 2],
            "judge": "judge-1",
            "model": "mine",
            "baseline": "theirs",
            "games": [{"score": score, "judgment": {"answer": f"[[{score}]]"}} for score in games],
            **more,
        }
        for place, games in enumerate(scores)
    ]
    return written(folder, "arena.jsonl", "\n".join(map(json.dumps, records)))


def alpaca_records() -> list[dict[str, Any]]:
    preferences = [1.0000048889, 1.9999012, 1.5, 2.0, 1.0, 1.73, None]
    return [
        {
            "instruction": f"Write {place}",
            "output_1": f"reference {place}",
            "generator_1": "theirs",
            "output_2": f"mine {place}",
            "generator_2": "mine",
            "preference": preference,
            "raw_completion": {"finish_reason": "length"},
        }
        for place, preference in enumerate(preferences)
    ]


def found(
    path: Path, meaning: Meaning | None = None, order: Order | None = None, column: str | None = None
) -> list[str]:
    table = read_pairs(path, column, order)
    return list(outcomes(table, game_outcomes(table, meaning or table.source.meaning))["outcome"])


def test_arena_hard_swaps_the_places_in_the_second_game(tmp_path: Path) -> None:
    path = arena_file(tmp_path, ("B>>A", "A>B"), ("A>B", "B>A"), ("A=B", "A>>B"), ("B>A", "B>A"), (None, "A>B"))
    table = read_pairs(path)
    assert found(path) == ["win", "loss", "tie", "tie", "unscored"]
    assert (table.source.candidate, table.source.baseline) == ("mine", "theirs")
    assert table.factors == ("category",)
    assert table.rows["pair_id"].tolist()[:3] == ["q0", "q0", "q1"]


@pytest.mark.parametrize("name", ["annotations.json", "annotations.jsonl", "annotations.csv"])
def test_alpaca_eval_annotations_are_read_as_weighted_preferences(tmp_path: Path, name: str) -> None:
    records = alpaca_records()
    if name.endswith(".csv"):
        keys = ["instruction", "output_1", "output_2", "preference"]
        rows = [",".join("" if record[key] is None else str(record[key]) for key in keys) for record in records]
        path = written(tmp_path, name, "\n".join([",".join(keys), *rows]))
    else:
        is_list = name.endswith(".json")
        path = written(tmp_path, name, json.dumps(records) if is_list else "\n".join(map(json.dumps, records)))
    assert found(path) == ["loss", "win", "tie", "win", "loss", "win", "unscored"]
    assert read_pairs(path).rows["candidate"].tolist()[0] == "mine 0"


def test_weighted_preferences_are_listed_together(tmp_path: Path) -> None:
    path = written(tmp_path, "pairs.csv", "label\n1.9\n1.7\n1.0\n1.1\n")
    table = read_pairs(path)
    listed = repairs(table, game_outcomes(table, Meaning("2", "1")))
    weighted = [(one.label, one.outcome, one.count) for one in listed if "weighted" in one.how]
    assert weighted == [("1.7 to 1.9", "win", 2), ("1.1", "loss", 1)]


@pytest.mark.parametrize(
    ("meaning", "label", "outcome"),
    [
        (Meaning("2", "1"), "1.4999", "loss"),
        (Meaning("2", "1"), "1.5", "tie"),
        (Meaning("1", "0"), "0.51", "win"),
        (Meaning("0", "1"), "0.51", "loss"),
        (Meaning("2", "1"), "2.1", "unscored"),
        (Meaning("2", "1"), "nan", "unscored"),
        (Meaning("tuned", "base"), "1.5", "unscored"),
    ],
)
def test_weighted_preference_counts_for_the_nearer_end(
    tmp_path: Path, meaning: Meaning, label: str, outcome: str
) -> None:
    assert found(written(tmp_path, "pairs.csv", f"label\n{label}\n"), meaning) == [outcome]


def test_strict_reading_takes_no_weighted_preference(tmp_path: Path) -> None:
    table = read_pairs(written(tmp_path, "pairs.csv", "label\n1.9\n2\n"))
    assert [read.outcome for read in game_outcomes(table, Meaning("2", "1"), is_strict=True)] == ["unscored", "win"]


FLAT = "pair_id,game,score\n" + "".join(f"u{number},1,B>A\nu{number},2,A>B\n" for number in range(4))
BIASED = FLAT.replace("B>A", "A>B")
BY_GAME = Order("game", "2")


def test_order_column_gives_the_side_of_a_place(tmp_path: Path) -> None:
    assert found(written(tmp_path, "flat.csv", FLAT), order=BY_GAME, column="score") == ["win"] * 4
    assert found(written(tmp_path, "biased.csv", BIASED), order=BY_GAME, column="score") == ["tie"] * 4


def test_labels_of_places_are_refused_without_an_order(tmp_path: Path) -> None:
    from synthpost_dagster.pairs.table import check_labels_name_contestants

    path = written(tmp_path, "flat.csv", FLAT)
    with pytest.raises(SpecError, match="--order-column"):
        check_labels_name_contestants(path, read_pairs(path, "score"))
    check_labels_name_contestants(path, read_pairs(path, "score", BY_GAME))
    single = written(tmp_path, "single.csv", "label\nA>B\nB>A\n")
    check_labels_name_contestants(single, read_pairs(single))


def test_pairs_whose_games_contradict_each_other_are_counted(tmp_path: Path) -> None:
    lines = "pair_id,label\na,x\na,y\nb,x\nb,y\nc,x\nc,x\nd,x\n"
    table, meaning = read_pairs(written(tmp_path, "pairs.csv", lines)), Meaning("x", "y")
    assert contradictions(table, game_outcomes(table, meaning)) == Contradictions(3, 2, False)
    slots = read_pairs(written(tmp_path, "slots.csv", lines.replace("x", "A").replace("y", "B")))
    assert contradictions(slots, game_outcomes(slots, Meaning("A", "B"))) == Contradictions(3, 2, True)


@pytest.mark.parametrize(
    ("label", "outcome"),
    [
        ("A>>B", "win"), ("[[B>>A]]", "loss"), ("A < B", "loss"), ("A=B", "tie"), ("A==B", "tie"), ("A>A", "unscored"),
        ("[[A]]", "win"), ("model_b", "loss"), ("first", "win"), ("2.0", "loss"), ("tie (bothbad)", "tie"),
        ("C", "tie"), ("Answer: B", "loss"), ("", "unscored"), ("neither of them", "unscored"),
    ],
)  # fmt: skip
def test_place_that_a_label_names_is_read(label: str, outcome: str) -> None:
    assert read_place(label, is_candidate_first=True).outcome == outcome
    swapped = {"win": "loss", "loss": "win"}.get(outcome, outcome)
    assert read_place(label, is_candidate_first=False).outcome == swapped


def test_only_comparisons_of_a_and_b_name_places() -> None:
    assert [names_places(label) for label in ("A>B", "[[A=B]]", "A", "A>C", "tuned>base")] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "is_guessed"),
    [(["1.0000048", "1.73"], True), (["0.2", "0.9"], True), (["1", "2"], False), (["1.5", "x"], False)],
)
def test_numbers_between_two_ends_are_guessed_to_be_weighted(labels: list[str], is_guessed: bool) -> None:
    assert bool(guessed_scale(labels)) == is_guessed


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("x.jsonl", '{"label": "a"}\n{"label": \n', "line 2"),
        ("x.jsonl", "[1]\n", "line 1"),
        ("x.json", '{"label": "a"}', "list of objects"),
        ("x.json", "[" * 100_000, "not valid JSON"),
        ("x.jsonl", "\n\n", "no comparison"),
        ("x.jsonl", '{"uid": 1, "model": "m", "baseline": "b", "games": []}', "judgment 1"),
    ],
)
def test_json_that_cannot_be_read_is_named_by_place(tmp_path: Path, name: str, content: str, place: str) -> None:
    with pytest.raises(SpecError, match=place):
        read_pairs(written(tmp_path, name, content))


def test_several_models_in_one_file_are_refused(tmp_path: Path) -> None:
    path = arena_file(tmp_path, ("A>B", "B>A"))
    other = arena_file(tmp_path, ("A>B", "B>A"), model="another").read_text()
    path.write_text(arena_file(tmp_path, ("A>B", "B>A")).read_text() + "\n" + other)
    with pytest.raises(SpecError, match="2 models"):
        read_pairs(path)


def test_preference_scale_of_alpaca_eval_reads_its_own_tie() -> None:
    assert ALPACA_MEANING.tie == "1.5"
    assert read_place("1", is_candidate_first=True) == Read("win", "")


def test_first_columns_that_qualify_are_factors_up_to_twenty(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(3_000)]
    lines = [",".join(["label", *names]), *(",".join(["x", *[str(row % 2)] * 3_000]) for row in range(4))]
    table = read_pairs(written(tmp_path, "wide.csv", "\n".join(lines)))
    assert table.factors == tuple(names[:20])
    assert len(table.ignored) == 2_980
