"""A file of comparisons becomes figures and a page, which say what the reader must know before the headline."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs.mapping import parse_map
from synthpost_dagster.pairs.table import Order
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.settings import read_settings
from synthpost_dagster.stages import pairs as stage
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.pairs import Labels, Made, evaluate_pairs
from synthpost_dagster.stages.study import Study

TUNED = Labels(None, "tuned", "base", "tie", is_strict=False)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "home").mkdir()
    return open_study(read_settings(str(tmp_path / "home"), "sales_posts", "tiny"))


def evaluated(study: Study, folder: Path, text: str, labels: Labels = TUNED) -> tuple[Made, dict[str, Any], str]:
    file = folder / "pairs.csv"
    file.write_text(text, encoding="utf-8")
    made = evaluate_pairs(study, file, labels, folder / "out", Progress())
    figures = json.loads((folder / "out" / "figures.json").read_text(encoding="utf-8"))
    return made, figures, made.page.read_text(encoding="utf-8")


def test_judge_that_follows_length_gets_no_winner(study: Study, tmp_path: Path) -> None:
    long, short = "one two three four five", "one two three"
    rows = [(short, long, "tuned") if place % 5 else (long, short, "base") for place in range(200)]
    lines = [f"Write {place},{base},{mine},{label}" for place, (base, mine, label) in enumerate(rows)]
    made, figures, page = evaluated(study, tmp_path, "\n".join(["prompt,baseline,candidate,label", *lines]))
    assert made.comparison.counts[:2] == (160, 40)
    assert figures["separated_by"][0] == "words"
    assert "no winner is named" in page
    assert "preferred" not in page[: page.index("Figures")]
    assert "words" in made.notices[0]


def test_labels_that_cannot_be_read_end_with_three_of_them(study: Study, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'1\.0000048889', '1\.9998', '1\.7311'.*--win 2"):
        evaluated(study, tmp_path, "label\n1.0000048889\n1.9998\n1.7311\n")
    assert not (tmp_path / "out").exists()


def test_unread_labels_are_listed_with_their_map_argument(study: Study, tmp_path: Path) -> None:
    text = "label\ntuned\nthe first's\nthe first's\nneither\n"
    made, figures, page = evaluated(study, tmp_path, text)
    assert made.comparison.counts == (1, 0, 0, 3)
    argument = shlex.split(made.unread[0])[-2:]
    assert argument == ["--map", "the first's=win|loss|tie|unscored"]
    assert [line.split(" ")[0] for line in made.unread] == ["2", "1"]
    assert [shlex.split(one["map"])[1].split("=")[0] for one in figures["repairs"]] == ["the first's", "neither"]
    assert "--map" in page
    mapped = TUNED._replace(by_label=parse_map(["the first's=loss", "neither=unscored"]))
    made, figures, _ = evaluated(study, tmp_path, text, mapped)
    assert made.comparison.counts == (1, 2, 0, 1)
    assert made.unread == ()
    assert evaluated(study, tmp_path, text, mapped._replace(is_strict=True))[0].comparison.counts == (1, 2, 0, 1)


def test_map_that_contradicts_the_meaning_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--map 'tuned' is loss, but --win"):
        evaluated(study, tmp_path, "label\ntuned\n", TUNED._replace(by_label={"tuned": "loss"}))
    places = TUNED._replace(win=None, loss=None, order=Order("game", "1"), by_label={"the top one": "win"})
    with pytest.raises(SpecError, match="--map 'the top one' is win"):
        evaluated(study, tmp_path, "pair_id,game,label\n1,1,A\n1,2,the top one\n", places)
    tied = places._replace(by_label={"the top one": "tie"})
    text = "pair_id,game,label\n1,1,A\n1,2,B\n2,1,the top one\n2,2,the top one\n"
    assert evaluated(study, tmp_path, text, tied)[0].comparison.counts == (1, 0, 1, 0)


def test_games_that_contradict_each_other_are_warned_of(study: Study, tmp_path: Path) -> None:
    text = "pair_id,label\n" + "".join(f"{pair},tuned\n{pair},base\n" for pair in range(5))
    made, _, page = evaluated(study, tmp_path, text)
    assert made.comparison.counts.ties == 5
    assert "5 of 5 pairs" in made.notices[0]
    assert "--order-column" in page


def test_judge_that_always_picks_one_place_is_seen_by_the_order(study: Study, tmp_path: Path) -> None:
    text = "pair_id,game,label\n" + "".join(f"{pair},1,A\n{pair},2,A\n" for pair in range(20))
    labels = Labels(None, None, None, "tie", is_strict=False, order=Order("game", "2"))
    made, figures, _ = evaluated(study, tmp_path, text, labels)
    assert made.comparison.counts == (0, 0, 20, 0)
    assert (figures["order_consistency"], figures["slot_bias"]) == (0.0, 0.5)
    assert len(made.notices) == 1
    with pytest.raises(SpecError, match="leave out --win"):
        evaluated(study, tmp_path, text, labels._replace(win="A", loss="B"))


def test_large_file_shows_a_sample_of_each_outcome(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MAX_SHOWN", 10)
    labels = ["tuned"] * 90 + ["base"] * 7 + ["tie"] * 3
    made, _, page = evaluated(study, tmp_path, "\n".join(["label", *labels]))
    assert made.comparison.counts.pairs == 100
    shown = json.loads(page.split('type="application/json"', 1)[1].split(">", 1)[1].split("</script>")[0])
    assert len(shown["rows"]) == 9
    assert len((tmp_path / "out" / "pairs.csv").read_text().splitlines()) == 101


def test_typographic_twins_in_a_name_are_the_same_product(study: Study, tmp_path: Path) -> None:
    brief = next(study.task.briefs("holdout"))
    company, product = study.task.names_of(brief.item).values()
    posts = (f"{company}'s {product} is here. Order today!", f"{company}’s {product} is here. Order today!")
    row = ",".join(["Write", *posts, f"{company}\u00a0", product, *brief.levels])
    made, _, _ = evaluated(study, tmp_path, "prompt,baseline,candidate,company,product,post_type,tone\n" + row)
    assert made.comparison.counts == (0, 0, 1, 0)
