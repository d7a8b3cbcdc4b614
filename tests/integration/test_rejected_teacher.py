"""A teacher whose replies are all cut off: terminal, Dagster and `synthpost rows` say so, with the key to change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance

from tests.helpers.chat_server import ChatServer, Rule, chat_server
from tests.helpers.small_study import SmallStudy, edit_yaml
from tests.integration.test_served_models import served

CUT_OFF = "rejected replies were cut off at teacher.sampling.max_new_tokens (320); raise it"
RAMBLING = Rule(text="Buy it now, and tell your friends about it, because " * 40, finish_reason="length")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture
def rambling(changeable: SmallStudy, server: ChatServer) -> SmallStudy:
    """The small study with 330 rows to be had of a teacher that never comes to an end."""
    server.script(RAMBLING)

    def change(profile: dict[str, Any]) -> None:
        profile["teacher"] = served(server.base_url("openai"), 320) | {
            "model": "served-model",
            "max_replies_per_row": 3,
        }
        profile["teacher"]["limits"]["concurrency"] = 128
        profile["sweep"] |= {"data_sizes": [330], "steps": [3]}

    edit_yaml(changeable.profile, change)
    shutil.rmtree(changeable.home / "storage" / "synthetic_rows")
    return changeable


def errors_of_steps(instance: DagsterInstance) -> dict[str, str]:
    """Step → our error, of the newest run."""
    found = {}
    for entry in instance.all_logs(instance.get_runs(limit=1)[0].run_id):
        event = entry.dagster_event
        if event is not None and event.is_step_failure:
            error = event.step_failure_data.error
            assert error is not None and error.cause is not None
            found[str(event.step_key)] = error.cause.message
    return found


def test_run_stops_after_bad_first_replies_and_resumes_when_fixed(rambling: SmallStudy, server: ChatServer) -> None:
    failed = rambling.command("run")
    assert failed.returncode == 2
    sentence, *details = failed.stderr.strip().splitlines()
    assert f"upstream: synthetic_rows: 20 of 20 {CUT_OFF}" in sentence
    assert "stop_on_bad_start" in sentence
    assert [line.split(": ")[0].strip() for line in details] == ["reasons", "example"]
    assert len(server.log().requests) == 20
    with rambling.instance() as instance:
        assert CUT_OFF in errors_of_steps(instance)["synthetic_rows"]

    shown = rambling.command("rows", "--reason", "truncated", "--limit", "3")
    assert (shown.returncode, shown.stdout.count("rejected: truncated")) == (0, 3), shown.stderr

    # The same again pays nothing more; with another limit the replies are other ones, and are asked for.
    assert rambling.command("run").returncode == 2
    assert len(server.log().requests) == 20
    server.script()
    edit_yaml(rambling.profile, lambda profile: profile["teacher"]["sampling"].update(max_new_tokens=400))
    edit_yaml(rambling.profile, lambda profile: profile["sweep"].update(data_sizes=[24]))
    study = rambling.open()
    from synthpost_dagster.stages.facts import RowsFacts
    from synthpost_dagster.stages.stage import materialize

    assert RowsFacts.of(materialize(study, "synthetic_rows").manifest).kept == 24


def test_run_that_continues_ends_in_checks_with_reasons(rambling: SmallStudy, server: ChatServer) -> None:
    edit_yaml(rambling.profile, lambda profile: profile.update(stop_on_bad_start=False))
    failed = rambling.command("run")
    assert failed.returncode == 2
    assert CUT_OFF in failed.stderr.splitlines()[0]
    assert len(server.log().requests) > 20
    with rambling.instance() as instance:
        steps = errors_of_steps(instance)
        evaluations = [
            event.asset_check_evaluation_data
            for entry in instance.all_logs(instance.get_runs(limit=1)[0].run_id)
            if (event := entry.dagster_event) and event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
        ]
    assert {name for name, message in steps.items() if CUT_OFF in message} == {
        "synthetic_rows_factor_coverage",
        "synthetic_rows_rejected_share",
    }
    (share,) = [one for one in evaluations if one.check_name == "rejected_share"]
    assert (share.passed, CUT_OFF in str(share.description)) == (False, True)
    assert "the limit is 20%" in str(share.metadata["explanation"].value)
    shown = rambling.command("rows", "--rejected", "--json", "--limit", "1")
    assert '"source": "synthetic_rows of ' in shown.stdout
    assert "which failed factor_coverage, rejected_share" in shown.stdout
