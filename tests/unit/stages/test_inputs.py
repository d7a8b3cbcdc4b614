"""A record of inputs holds what shapes an artifact; what it does not hash cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import ClassVar

import pytest

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.artifacts.manifest import Manifest
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.stages.facts import AdapterFacts, Facts
from synthpost_dagster.stages.inputs import WORDING, HashedAs, Inputs, narrowed
from synthpost_dagster.stages.stage import STAGES, stage_of
from synthpost_dagster.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Base(Inputs):
    text: str
    number: int
    hashed_as: ClassVar[HashedAs] = {"number": lambda number: number % 10}


@dataclass(frozen=True, slots=True)
class Derived(Base):
    beside: str
    rows: Manifest
    hashed_as: ClassVar[HashedAs] = {"beside": None}


def manifest(facts: Mapping[str, object] | None = None) -> Manifest:
    return Manifest(
        asset="rows",
        partition="",
        fingerprint="f",
        digest="of the content",
        parts={},
        files={},
        facts=dict(facts or {}),
        gates=(),
        made_at="",
    )


def test_parts_hold_each_field_as_its_class_says() -> None:
    record = Derived("a", 12, "not hashed", manifest())
    assert record.parts == {"text": "a", "number": 2, "rows": "of the content"}
    same, other = replace(record, number=22, beside="another"), replace(record, text="b")
    assert fingerprint(same.parts) == fingerprint(record.parts) != fingerprint(other.parts)
    with pytest.raises(FrozenInstanceError):
        record.text = "b"  # type: ignore[misc]


def test_narrowed_task_renders_the_same_prompts_and_hides_the_rest(small_task: Task) -> None:
    task = narrowed(small_task, WORDING, "train", ("teacher", "student"))
    assert training_prompts(task).equals(training_prompts(small_task))
    assert {item.split for item in task.items} == {"train"}
    hidden = set(type(task.spec).model_fields) - set(WORDING)
    assert {name for name in hidden if getattr(task.spec, name) is not None} == set()
    with pytest.raises(AttributeError):
        _ = task.spec.quality.max_rejected_share
    with pytest.raises(KeyError):
        task.template("judge")


def test_every_asset_has_one_stage_after_those_it_is_built_from() -> None:
    seen: set[str] = set()
    for asset in STAGES:
        assert (stage_of(asset).asset, set(stage_of(asset).upstream) <= seen) == (asset, True)
        seen.add(asset)


def test_facts_of_an_earlier_version_lack_keys_and_hold_others() -> None:
    facts = AdapterFacts.of(manifest({"rows": 8, "gone_since": "x"}))
    assert (facts.rows, facts.optimizer_steps, facts.estimate.seconds) == (8, 0, None)
    assert facts.content == {"rows": 8, "gone_since": "x"}


def test_facts_keep_figures_whose_names_depend_on_the_data() -> None:
    assert Facts(rows=1).with_figures({"distinct_2_at_8_rows": 0.5}).content == {"rows": 1, "distinct_2_at_8_rows": 0.5}
    assert [one.name for one in fields(Derived)] == ["text", "number", "beside", "rows"]
