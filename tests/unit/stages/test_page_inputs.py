"""Whatever the page shows shapes the report's fingerprint, and the fingerprints of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.manifest import GateEntry, Manifest, Plan
from synthpost_dagster.artifacts.resolver import State
from synthpost_dagster.artifacts.store import Draft
from synthpost_dagster.profiles import FOLDER
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.page_inputs import PageInputs, _timed, page_inputs
from synthpost_dagster.stages.stage import materialize
from synthpost_dagster.stages.study import Study
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import write_yaml

Edit = Callable[[Any], object]


@pytest.fixture
def study(small_task: Task, tmp_path: Path) -> Study:
    """A study on the small task with a profile of this test's own whose teacher is hosted; prompts are there."""
    profile = yaml.safe_load((FOLDER / "llama3-8b.yaml").read_text(encoding="utf-8"))
    profile["sweep"].update(data_sizes=[88], steps=[50])
    write_yaml(tmp_path / "profile.yaml", profile)
    opened = open_study(
        Settings(task=str(small_task.folder), profile=str(tmp_path / "profile.yaml"), home=tmp_path / "home")
    )
    for asset in ("catalog", "prompts", "evaluation_prompts"):
        materialize(opened, asset)
    return opened


def edited(study: Study, file: str, change: Edit) -> Study:
    """The study after a change of `task.yaml` or the profile."""
    path = Path(study.settings.profile) if file == "profile" else study.task.folder / file
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    write_yaml(path, content)
    return open_study(study.settings)


def without_split(products: Path) -> list[dict[str, Any]]:
    """The products without their column `split`."""
    entries = yaml.safe_load(products.read_text(encoding="utf-8"))
    return [{name: value for name, value in entry.items() if name != "split"} for entry in entries]


def description(task: dict[str, Any]) -> None:
    task["description"] = "Another description."


def criterion_text(task: dict[str, Any]) -> None:
    task["criteria"]["offer"]["text"] = "Rhyme, always."


def forgetting_limit(task: dict[str, Any]) -> None:
    task["quality"]["max_perplexity_ratio"] = 1.5


def price(profile: dict[str, Any]) -> None:
    profile["teacher"]["prices"] = {"input": 3.0, "output": 4.0}


def judge_endpoint(profile: dict[str, Any]) -> None:
    profile["judges"][0]["endpoint"] = "elsewhere"


def student_name(profile: dict[str, Any]) -> None:
    profile["student"]["model"] = "someone/another-model"


def study_mode(profile: dict[str, Any]) -> None:
    profile["study"] = True


def seed(profile: dict[str, Any]) -> None:
    profile["training"]["seed"] = 7


SHOWN: list[tuple[str, Edit]] = [
    ("task.yaml", description),
    ("task.yaml", criterion_text),
    ("task.yaml", forgetting_limit),
    ("profile", price),
    ("profile", judge_endpoint),
    ("profile", student_name),
    ("profile", study_mode),
    ("profile", seed),
]


@pytest.mark.parametrize(("file", "change"), SHOWN)
def test_what_the_page_shows_makes_another_report(study: Study, file: str, change: Edit) -> None:
    before = fingerprint(page_inputs(study).parts)
    assert fingerprint(page_inputs(study).parts) == before
    assert fingerprint(page_inputs(edited(study, file, change)).parts) != before


@pytest.mark.parametrize(("file", "change"), [("task.yaml", description), ("profile", price)])
def test_description_and_price_make_nothing_else(study: Study, file: str, change: Edit) -> None:
    def plans(one: Study) -> list[str]:
        assets = ("catalog", "prompts", "evaluation_prompts", "synthetic_rows")
        return [one.resolver.fingerprint(asset) for asset in assets]

    before = plans(study)
    assert plans(edited(study, file, change)) == before


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("profile", lambda profile: profile["teacher"]["limits"].update(concurrency=3)),
        ("profile", lambda profile: profile["device"].update(max_concurrent_runs=2)),
    ],
)
def test_what_the_page_does_not_show_leaves_the_report(study: Study, file: str, change: Edit) -> None:
    before = fingerprint(page_inputs(study).parts)
    assert fingerprint(page_inputs(edited(study, file, change)).parts) == before


def test_every_input_of_the_page_is_a_part_of_its_plan(study: Study) -> None:
    inputs = page_inputs(study)
    assert set(inputs.parts) == {one.name for one in fields(PageInputs)}
    assert inputs.prompts is not None
    for changed in (
        replace(inputs, labels={"pair": "first"}),
        replace(inputs, missing=(("88|50", "another reason"),)),
        replace(inputs, prompts=inputs.prompts.model_copy(update={"self_digest": "another"})),
        replace(inputs, evaluation_count=99),
    ):
        assert changed.parts != inputs.parts


def test_changed_limit_evaluates_the_gates_once_more_and_keeps_the_files(study: Study) -> None:
    before = study.resolver.need("prompts")
    assert gate_of(before.gates, "factor_coverage").limits == {"max_rejected_share": 0.2}
    changed = edited(study, "task.yaml", lambda task: task["quality"].update(max_rejected_share=0.1))
    assert (changed.resolver.state("prompts"), study.resolver.state("prompts")) == (State.RECHECK, State.CURRENT)
    again = materialize(changed, "prompts")
    assert again.is_reused
    assert gate_of(again.manifest.gates, "factor_coverage").limits == {"max_rejected_share": 0.1}
    assert (again.manifest.digest, again.manifest.files) == (before.digest, before.files)
    assert changed.fresh().resolver.need("prompts") == again.manifest
    assert changed.resolver.state("prompts") is State.CURRENT


def test_table_with_the_same_content_has_the_same_digest(study: Study) -> None:
    before = study.resolver.need("prompts")
    changed = edited(study, "task.yaml", lambda task: task["holdout"]["leak"].update(words=9))
    again = materialize(changed, "prompts")
    assert not again.is_reused
    assert again.manifest.fingerprint != before.fingerprint
    assert again.manifest.digest == before.digest


@pytest.mark.parametrize(
    "change",
    [
        {"strata": ["tone"]},
        {"exclude": [{"tone": "Witty"}]},
        {"samples_per_prompt": 2},
        {"holdout": {"by": "tone", "levels": ["Witty"]}},
    ],
)
def test_other_selection_of_prompts_makes_the_table_again(study: Study, change: dict[str, Any]) -> None:
    small = {"evaluation": {"prompts": 30}, "sweep": {"data_sizes": [8, 88], "steps": [2]}}
    by_tone = {"holdout": {"by": "tone", "levels": ["Inspirational"]}}
    write_yaml(study.task.folder / "products.yaml", without_split(study.task.folder / "products.yaml"))
    study = edited(study, "task.yaml", lambda task: task.update(small | by_tone))
    materialize(study, "catalog")
    before = materialize(study, "prompts").manifest
    changed = edited(study, "task.yaml", lambda task: task.update(change))
    materialize(changed, "catalog")
    again = materialize(changed, "prompts").manifest
    assert again.digest != before.digest


@pytest.mark.parametrize(("teacher", "is_timed"), [("one", True), ("another", False)])
def test_rows_remade_without_a_request_keep_the_time_of_the_first(study: Study, teacher: str, is_timed: bool) -> None:
    def made(name: str, asked: int, rows_by: str) -> Manifest:
        def make(draft: Draft) -> None:
            draft.facts.update(asked_now=asked, ask_seconds=2.0 * asked)

        return study.store.reuse_or_make(Plan("synthetic_rows", "", {"teacher": rows_by, "rules": name}), make).manifest

    first, remade = made("old", 4, teacher), made("new", 0, "one")
    study = study.fresh()
    assert _timed(study, first) == first
    assert _timed(study, remade) == (first if is_timed else None)


def gate_of(entries: tuple[GateEntry, ...], name: str) -> GateEntry:
    return next(entry for entry in entries if entry.name == name)
