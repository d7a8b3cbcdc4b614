"""`synthpost pairs`: comparisons made elsewhere, from labels and from posts, as people run it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.rows.prompts import evaluation_prompts
from synthpost_dagster.schemas import Games
from tests.helpers.small_study import SmallStudy, edit_yaml

LABELS = ["finetuned"] * 80 + ["baseline"] * 11 + ["'finetuned'"] + ["'baseline'"] * 3
"""The best cell of the study as its judge wrote it: four of 95 verdicts came back in quotes."""


def figures(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def write(path: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def labelled(study: SmallStudy, *more: str, column: str = "label") -> tuple[dict[str, Any], str]:
    rows = [[f"p{place}", label, ["short", "long"][place % 2]] for place, label in enumerate(LABELS)]
    file = write(study.root / "labels.csv", ["pair_id", column, "length"], rows)
    out = study.root / "out"
    meaning = ("--win", "finetuned", "--loss", "baseline")
    ran = study.call("pairs", str(file), "--out", str(out), *meaning, *more)
    assert ran.returncode == 0, ran.stderr
    assert str(out / "index.html") in ran.stdout.replace("\n", "")
    return figures(out), (out / "index.html").read_text(encoding="utf-8")


def test_labels_of_the_study_are_read_correctly(fresh: SmallStudy) -> None:
    found, page = labelled(fresh)
    assert {name: found[name] for name in ("wins", "losses", "ties", "unscored")} == {
        "wins": 81,
        "losses": 14,
        "ties": 0,
        "unscored": 0,
    }
    assert found["win_ratio"] == pytest.approx(81 / 14)
    assert (found["win_ratio_low"], found["win_ratio_high"]) == pytest.approx((3.26, 11.07), abs=0.03)
    assert {(repair["label"], repair["outcome"], repair["count"]) for repair in found["repairs"]} == {
        ("'finetuned'", "win", 1),
        ("'baseline'", "loss", 3),
    }
    assert set(found["factors"]["length"]) == {"short", "long"}
    assert "quotes" in page
    assert not (fresh.home / "storage").exists(), "comparisons made elsewhere are no part of the study"


def test_strict_counts_only_exact_labels(fresh: SmallStudy) -> None:
    found, _ = labelled(fresh, "--strict", "--label-column", "verdict", column="verdict")
    assert (found["wins"], found["losses"], found["unscored"]) == (80, 11, 4)
    assert found["win_ratio"] == pytest.approx(80 / 11)
    assert found["worst_case_ratio"] == pytest.approx(80 / 15)


def test_labels_of_a_parquet_file_and_games_of_one_pair(fresh: SmallStudy) -> None:
    table = pd.DataFrame({"pair_id": [1, 1, 2, 2, 3], "label": ["A", "A", "A", "B", None]})
    file = fresh.root / "pairs.parquet"
    table.to_parquet(file)
    ran = fresh.command("pairs", str(file), "--out", str(fresh.root / "out"), "--win", "A", "--loss", "B")
    assert ran.returncode == 0, ran.stderr
    found = figures(fresh.root / "out")
    assert (found["wins"], found["losses"], found["ties"], found["unscored"]) == (1, 0, 1, 1)
    assert found["win_ratio"] is None
    assert found["win_ratio_low"] == pytest.approx(0.025641, abs=1e-5)


def test_map_option_scores_labels_that_are_not_read(fresh: SmallStudy) -> None:
    file = write(fresh.root / "labels.csv", ["label", "x"], [["yes", "1"], ["no", "1"], ["hm = no", "1"], ["eh", "1"]])
    arguments = ["pairs", str(file), "--out", str(fresh.root / "out"), "--win", "yes", "--loss", "no"]
    ran = fresh.call(*arguments)
    assert "--map 'hm = no=win|loss|tie|unscored'" in ran.stdout
    assert figures(fresh.root / "out")["unscored"] == 2
    ran = fresh.call(*arguments, "--map", "hm = no=tie", "--map", "eh=loss")
    assert (ran.returncode, "--map" in ran.stdout) == (0, False)
    found = figures(fresh.root / "out")
    assert (found["wins"], found["losses"], found["ties"], found["unscored"]) == (1, 2, 1, 0)
    ran = fresh.call(*arguments, "--map", "eh")
    assert (ran.returncode, "'eh'" in ran.stderr) == (2, True)


COLUMNS = ["prompt", "baseline", "candidate", "company", "product", "post_type", "tone"]


def posts(study: SmallStudy, prompts: int = 11) -> list[list[str]]:
    """Rows of posts that the rubric prefers to their baselines, so many prompts among them."""
    good = "Only {} has the {}, so you save time. Order today! #New"
    return [
        [
            f"Write {place % prompts}.", "Hm.", good.format(row.company, row.product), row.company, row.product,
            row.post_type, row.tone,
        ]
        for place, row in enumerate(evaluation_prompts(study.open().task, 11).itertuples())
    ]  # fmt: skip


def played(study: SmallStudy, rows: list[list[str]]) -> tuple[dict[str, Any], str, str]:
    """The figures, the page, and what the command said."""
    ran = study.call("pairs", str(write(study.root / "posts.csv", COLUMNS, rows)), "--out", str(study.root / "out"))
    assert ran.returncode == 0, ran.stderr
    page = (study.root / "out" / "index.html").read_text(encoding="utf-8")
    return figures(study.root / "out"), page, ran.stdout


def test_profiles_judges_judge_posts_in_both_orders(fresh: SmallStudy) -> None:
    found, page, said = played(fresh, posts(fresh))
    assert (found["wins"], found["losses"], found["prompts"]) == (11, 0, 11)
    assert (found["order_consistency"], found["slot_bias"]) == (1.0, 0.0)
    assert "B misses" in page, "the judge's sentence is on the page"
    assert "share" not in page[: page.index("<h1>")]
    assert "study mode" not in page + said


def test_every_game_is_kept_with_its_reply(fresh: SmallStudy) -> None:
    _, _, said = played(fresh, posts(fresh))
    file = fresh.root / "out" / "games.csv"
    assert str(file) in said.replace("\n", "")
    games = pd.read_csv(file, keep_default_na=False)
    assert set(games.columns) == set(Games.to_schema().columns)
    assert (len(games), games["pair_id"].nunique(), games["prompt_fingerprint"].nunique()) == (22, 11, 22)
    assert games["raw_reply"].str.contains("misses").all()
    labelled(fresh)
    assert not file.exists(), "the games of another file are not left beside labels"


def test_pairs_of_one_prompt_are_no_independent_prompts(fresh: SmallStudy) -> None:
    found, page, _ = played(fresh, posts(fresh, prompts=4))
    assert found["prompts"] == 4
    assert "11 pairs share 4 prompts" in page[: page.index("<h1>")]
    games = pd.read_csv(fresh.root / "out" / "games.csv")
    assert (games["prompt_id"].nunique(), games["pair_id"].nunique()) == (4, 11)


def test_missing_post_is_not_judged_as_an_empty_post(fresh: SmallStudy) -> None:
    rows = posts(fresh)
    rows[0][2], rows[1][0] = "", ""
    found, page, _ = played(fresh, rows)
    assert (found["wins"], found["unscored"]) == (9, 2)
    assert found["missing"] == {"post missing": 1, "prompt missing": 1}
    assert "post missing" in page
    assert set(pd.read_csv(fresh.root / "out" / "games.csv")["pair_id"]) == set(range(3, 12))


def test_a_file_whose_posts_are_all_missing_is_refused(fresh: SmallStudy) -> None:
    file = write(fresh.root / "posts.csv", COLUMNS[:3], [["Write.", "", "Hm."]])
    ran = fresh.call("pairs", str(file), "--out", str(fresh.root / "out"))
    assert (ran.returncode, "every pair lacks" in ran.stderr) == (2, True)


def test_study_mode_is_labelled_on_the_page_and_in_the_terminal(fresh: SmallStudy) -> None:
    rows = posts(fresh)
    edit_yaml(fresh.task / "task.yaml", lambda task: task["evaluation"].update(prompts=95))
    edit_yaml(fresh.profile, lambda profile: profile.update(study=True, evaluation_prompts=None))
    found, page, said = played(fresh, rows)
    assert (found["wins"], found["is_study_mode"]) == (11, True)
    assert "study mode: one order" in said
    assert page.count("study mode: one order") >= 6
    assert "in one order only" in page[: page.index("<h1>")]
    _, page = labelled(fresh)
    assert "study mode" not in page, "labels that are read were not played by this profile"


@pytest.mark.parametrize(
    ("columns", "rows", "more", "said"),
    [
        (["label"], [["x"]], [], ["--win", "--loss"]),
        (["text"], [["x"]], [], ["neither a column 'label'", "prompt, baseline, candidate"]),
        (["prompt", "baseline", "candidate"], [["p", "b", "c"]], [], ["rubric", "company, product, post_type, tone"]),
        (["label"], [["x"]], ["--win", "a", "--loss", "A "], ["--win", "--loss"]),
        (["pair_id", "prompt", "baseline", "candidate"], [["1", "p", "b", "c"]] * 2, [], ["pair_id '1'"]),
    ],
)
def test_error_is_one_sentence(
    fresh: SmallStudy, columns: list[str], rows: list[list[str]], more: list[str], said: list[str]
) -> None:
    file = write(fresh.root / "wrong.csv", columns, rows)
    ran = fresh.call("pairs", str(file), "--out", str(fresh.root / "out"), *more)
    assert ran.returncode == 2
    assert [part for part in said if part not in ran.stderr] == []
    assert "Traceback" not in ran.stderr
    assert not (fresh.root / "out" / "figures.json").exists()
