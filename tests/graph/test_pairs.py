"""`synthpost pairs`: comparisons made elsewhere, from labels and from posts, as people run it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_study import SmallStudy

from synthpost_dagster.rows.prompts import evaluation_prompts

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
    ran = study.command("pairs", str(file), "--out", str(out), *meaning, *more)
    assert ran.returncode == 0, ran.stderr
    assert str(out / "index.html") in ran.stdout.replace("\n", "")
    return figures(out), (out / "index.html").read_text(encoding="utf-8")


def test_the_studys_labels_are_read_as_they_were_meant(fresh: SmallStudy) -> None:
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


def test_strict_counts_exact_labels_alone_and_shows_the_others_as_unscored(fresh: SmallStudy) -> None:
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


def test_posts_are_played_by_the_profiles_judges_in_both_orders(fresh: SmallStudy) -> None:
    task = fresh.open().task
    prompts = evaluation_prompts(task, 11)
    good = "Only {company} has the {product}, so you save time. Order today! #New"
    rows = [
        [
            "Write.",
            "Hm.",
            good.format(company=row.company, product=row.product),
            row.company,
            row.product,
            row.post_type,
            row.tone,
        ]
        for row in prompts.itertuples()
    ]
    columns = ["prompt", "baseline", "candidate", "company", "product", "post_type", "tone"]
    file = write(fresh.root / "posts.csv", columns, rows)
    ran = fresh.command("pairs", str(file), "--out", str(fresh.root / "out"))
    assert ran.returncode == 0, ran.stderr
    found = figures(fresh.root / "out")
    assert (found["wins"], found["losses"]) == (11, 0)
    assert (found["order_consistency"], found["slot_bias"]) == (1.0, 0.0)
    page = (fresh.root / "out" / "index.html").read_text(encoding="utf-8")
    assert "B misses" in page, "the judge's sentence is on the page"


@pytest.mark.parametrize(
    ("columns", "rows", "more", "said"),
    [
        (["label"], [["x"]], [], ["--win", "--loss"]),
        (["text"], [["x"]], [], ["neither a column 'label'", "prompt, baseline, candidate"]),
        (["prompt", "baseline", "candidate"], [["p", "b", "c"]], [], ["rubric", "company, product, post_type, tone"]),
        (["label"], [["x"]], ["--win", "a", "--loss", "A "], ["--win", "--loss"]),
        (["pair_id", "prompt", "baseline", "candidate"], [["1", "p", "b", "c"]] * 2, [], ["pair_id '1' stands twice"]),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    fresh: SmallStudy, columns: list[str], rows: list[list[str]], more: list[str], said: list[str]
) -> None:
    file = write(fresh.root / "wrong.csv", columns, rows)
    ran = fresh.command("pairs", str(file), "--out", str(fresh.root / "out"), *more)
    assert ran.returncode == 2
    assert [part for part in said if part not in ran.stderr] == []
    assert "Traceback" not in ran.stderr
    assert not (fresh.root / "out" / "figures.json").exists()
