"""Rows of earlier tables, and which of them keep their verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from synthpost_dagster.artifacts.manifest import Plan
from synthpost_dagster.rows.replies import RULES
from synthpost_dagster.settings import Settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.study import Study
from synthpost_dagster.stages.synthetic_rows import known_rows, row_rules


def keep(study: Study, quality: dict[str, Any], reason: str, rules: int = RULES) -> None:
    """Puts a table of one reply into the storage, made under a quality of the task and the rules of a version."""
    table = pd.DataFrame({"reply_key": ["a"], "reason": [reason]})
    plan = Plan("synthetic_rows", "", row_rules(study) | {"quality": quality, "rules": rules})
    study.store.reuse_or_make(plan, lambda draft: draft.table("synthetic_rows", table))


def test_verdict_by_current_rules_is_preferred_to_a_later_one(tmp_path: Path) -> None:
    study = open_study(Settings(task="sales_posts", profile="tiny", home=tmp_path / "home"))
    assert known_rows(study) is None
    present = study.task.spec.quality.model_dump(mode="json")
    keep(study, present | {"band_retries": 5}, "by others, first")
    keep(study, present | {"max_rejected_share": 0.9}, "by the present ones")
    keep(study, present | {"near_duplicate_jaccard": 0.9}, "by others, last")
    known = known_rows(study)
    assert known is not None
    assert known[["reason", "is_settled"]].to_dict("records") == [{"reason": "by the present ones", "is_settled": True}]


def test_row_of_an_earlier_version_of_the_rules_is_not_settled(tmp_path: Path) -> None:
    study = open_study(Settings(task="sales_posts", profile="tiny", home=tmp_path / "home"))
    keep(study, study.task.spec.quality.model_dump(mode="json"), "", RULES - 1)
    known = known_rows(study)
    assert known is not None
    assert known["is_settled"].tolist() == [False]
