"""The blind sheet that people filled: reading it, and what a choice means."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.judging.people import is_candidate_first, read_labels

EVEN, ODD = "00000000000000a2", "00000000000000a3"


def sheet(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    return path


def test_candidate_is_first_where_the_id_is_even() -> None:
    assert [is_candidate_first(name) for name in (EVEN, ODD)] == [True, False]


@pytest.mark.parametrize(
    ("choice", "even", "odd"),
    [
        ("1", "win", "loss"),
        ("2", "loss", "win"),
        ("tie", "tie", "tie"),
        ("Post_2", "loss", "win"),
        (" A ", "win", "loss"),
    ],
)
def test_choice_becomes_the_candidates_outcome(tmp_path: Path, choice: str, even: str, odd: str) -> None:
    text = f"pair_id,brief,post_1,post_2,choice\n{EVEN},x,a,b,{choice}\n{ODD},x,a,b,{choice}\n"
    assert read_labels(sheet(tmp_path, text)) == {EVEN: even, ODD: odd}


def test_empty_choices_are_left_out_and_several_people_are_a_panel(tmp_path: Path) -> None:
    text = f'\ufeffChoice,Pair ID,post_1\n1,{EVEN},"two\nlines"\n2,{EVEN},\n1,{EVEN},\n,{ODD},\n'
    assert read_labels(sheet(tmp_path, text)) == {EVEN: "win"}


def test_sheet_that_was_saved_with_semicolons_is_read(tmp_path: Path) -> None:
    assert read_labels(sheet(tmp_path, f"pair_id;post_1;choice\r\n{EVEN};a, b;1\r\n")) == {EVEN: "win"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"pair_id,choice\n{EVEN},3\n", ["line 2", "choice '3'", "1, 2 or tie"]),
        ("pair_id,choice\nthe first,1\n", ["line 2", "'the first'"]),
        (f"pair,choice\n{EVEN},1\n", ["no column pair_id"]),
        ("", ["no column choice or pair_id"]),
    ],
)
def test_wrong_sheet_is_refused_with_its_line(tmp_path: Path, text: str, said: list[str]) -> None:
    path = sheet(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        read_labels(path)
    assert [part for part in [str(path), *said] if part not in str(caught.value)] == []


def test_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"pair_id,choice\n\xff\xfe,1\n")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_labels(tmp_path / "x.csv")
