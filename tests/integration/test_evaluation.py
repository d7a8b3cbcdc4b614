"""The evaluation in the graph: further seeds, a panel, people's labels, missing controls, study mode."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pandas as pd

from synthpost_dagster.judging.people import is_candidate_first
from synthpost_dagster.report.data import ReportData
from synthpost_dagster.stages.page_inputs import page_inputs
from synthpost_dagster.stages.report import gather
from tests.helpers.small_study import SmallStudy, done, edit_yaml


def report_of(study: SmallStudy) -> ReportData:
    opened = study.open()
    return gather(page_inputs(opened), opened.store)


def test_a_further_seed_trains_each_cell_again_and_shows_the_spread(changeable: SmallStudy) -> None:
    before = changeable.snapshot()
    edit_yaml(changeable.profile, lambda profile: profile["sweep"].update(more_seeds=[7]))
    assert changeable.sweep("8|3") == [done("sweep"), done("report")]
    assert {name for name, made in changeable.snapshot().items() if before[name] != made} == {"ratio_report"}
    store = changeable.open().store
    (first,), (further,) = store.all_of("adapters", "8|3"), store.all_of("adapters", "8|3|7")
    assert first.digest != further.digest
    table = pd.read_parquet(changeable.home / "report" / "ratio_report.parquet")
    of_cell = table[(table["data_size"] == 8) & (table["steps"] == "3") & (table["factor"] == "all")]
    assert sorted(set(of_cell["seed"])) == [7, 3407]
    (seeds,) = report_of(changeable).seeds
    assert (seeds.cell.key, seeds.seeds, len(seeds.spread.ratios)) == ("8|3", (3407, 7), 2)
    assert changeable.sweep("8|3") == []


def test_report_without_controls_names_them_as_missing(changeable: SmallStudy) -> None:
    shutil.rmtree(changeable.home / "storage" / "control_verdicts")
    trust = report_of(changeable).trust
    assert (trust.controls, "control_verdicts" in trust.missing_controls) == ((), True)
    assert changeable.call("report").returncode == 0
    page = (changeable.home / "report" / "index.html").read_text(encoding="utf-8")
    assert "control_verdicts" in page


def test_report_compares_peoples_choices_with_the_judge(changeable: SmallStudy, tmp_path: Path) -> None:
    study = changeable.open()
    games = study.store.read_table(study.resolver.need("verdicts", study.cells[0].place))
    decided = games[(games["outcome"] != "tie") & games["is_candidate_first"]].head(8)
    sheet = tmp_path / "filled.csv"
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pair_id", "brief", "post_1", "post_2", "choice"])
        for row in decided.itertuples():
            is_first = is_candidate_first(row.pair_id) == (row.outcome == "win")
            writer.writerow([row.pair_id, "", "", "", "1" if is_first else "2"])
    ran = changeable.call("report", "--labels", str(sheet))
    assert ran.returncode == 0, ran.stderr
    assert "8 labelled pairs saved" in ran.stdout
    people = report_of(changeable).trust.people
    assert people is not None
    assert (people.scored, people.agreed) == (8, 1.0)
    broken = tmp_path / "broken.csv"
    broken.write_text("pair_id,choice\nx,1\n")
    refused = changeable.call("report", "--labels", str(broken))
    assert (refused.returncode, "line 2" in refused.stderr) == (2, True)
    assert report_of(changeable).trust.people == people, "a sheet that cannot be read takes no other's place"


def test_study_mode_judges_one_order_and_is_labelled_so(changeable: SmallStudy) -> None:
    def as_in_the_study(profile: dict[str, object]) -> None:
        profile["study"] = True
        profile["evaluation_prompts"] = None

    rules = changeable.open().rules
    edit_yaml(changeable.task / "task.yaml", lambda task: task["evaluation"].update(prompts=95))
    edit_yaml(changeable.profile, as_in_the_study)
    study = changeable.open()
    assert (rules.orders, study.rules.orders, study.rules.may_tie) == ((True, False), (False,), False)
    assert study.evaluation_count == 95
