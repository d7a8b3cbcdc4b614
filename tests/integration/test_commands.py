"""What `estimate`, `doctor` and `journal` say, against a study that is made and one that is not."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from synthpost_dagster.cell import Cell
from synthpost_dagster.llm.journal_tables import HOLDERS, with_checksum
from synthpost_dagster.stages.doctor import Finding, examine
from synthpost_dagster.stages.estimate import Line, estimate
from tests.helpers.small_study import SmallStudy, Whole, edit_yaml

CANARY = "sk-canary-5f1c"
HOSTED: dict[str, Any] = {
    "backend": "groq",
    "endpoint": "far",
    "base_url": "http://127.0.0.1:9",
    "api_key": "CANARY_KEY",
    "model": "openai/gpt-oss-120b",
    "revision": None,
    "sampling": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 100, "seed": 1},
    "max_tokens_as": "max_tokens",
    "structured_output": "none",
    "extra_body": {},
    "prices": {"input": 1.0, "output": 10.0},
    "limits": {
        "concurrency": 4,
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "timeout_seconds": 5,
        "max_request_attempts": 1,
        "max_retry_wait_seconds": 5,
    },
    "max_replies_per_row": 2,
}


def by_stage(study: SmallStudy, *cells: str) -> dict[str, Line]:
    return {line.stage: line for line in estimate(study.open(), [Cell.parse(cell) for cell in cells])}


def hosted(study: SmallStudy, role: str, **changes: Any) -> None:
    spec = {**HOSTED, **changes}
    edit_yaml(study.profile, lambda profile: profile.update({"judges": [spec]} if role == "judge" else {role: spec}))


def test_the_whole_study_was_made_without_a_connection(whole: Whole) -> None:
    assert whole.refused == []
    with whole.offline, pytest.raises(ConnectionRefusedError, match="no network in this test"):
        socket.create_connection(("127.0.0.1", 9))
    assert whole.offline.refused


def test_estimate_of_a_finished_study_is_zero(whole: Whole) -> None:
    lines = by_stage(whole.study, "8|3", "16|1-epoch")
    assert list(lines) == ["synthetic rows", "untuned posts", "training", "predictions", "verdicts", "controls"]
    assert {line.expected.requests for line in lines.values()} == {0}
    assert {line.expected.seconds for line in lines.values()} == {0.0}


def test_larger_data_are_expected_at_the_journals_own_means(whole: Whole, changeable: SmallStudy) -> None:
    edit_yaml(changeable.profile, lambda profile: profile["sweep"].update(data_sizes=[8, 16, 24]))
    lines = by_stage(changeable, "24|3")
    rows = changeable.open().store.all_of("synthetic_rows")[-1].facts
    expected = lines["synthetic rows"].expected
    assert expected.requests >= 8
    mean = rows["completion_tokens"] / (rows["kept"] + rows["rejected"])
    assert expected.completion_tokens == pytest.approx(mean * expected.requests, abs=1)
    assert expected.basis == f"{rows['kept'] + rows['rejected']} replies in the journal"
    adapters = [changeable.open().store.all_of("adapters", cell)[0].facts for cell in ("8|3", "16|3")]
    steps = lines["training"].expected.seconds
    assert steps and 0.2 < steps / (sum(f["wall_seconds"] for f in adapters) / 2) < 5


def test_hosted_judge_is_estimated_from_prompts_prices_and_pace(changeable: SmallStudy) -> None:
    hosted(changeable, "judge")
    expected = by_stage(changeable, "8|3", "8|1-epoch")["verdicts"].expected
    assert expected.requests == 2 * 11 * 4
    assert expected.completion_tokens == expected.requests * 100
    assert expected.prompt_tokens / expected.requests > 200
    assert expected.usd == pytest.approx((expected.prompt_tokens + 10 * expected.completion_tokens) / 1e6)
    assert expected.usd_at_most == pytest.approx(2 * expected.usd, rel=0.01)
    assert expected.seconds == pytest.approx(88.0)


def test_the_estimate_is_a_table_with_cost_and_budget(changeable: SmallStudy) -> None:
    hosted(changeable, "judge")
    edit_yaml(changeable.profile, lambda profile: profile.update(budget=5))
    shown = changeable.call("estimate", CANARY_KEY=CANARY)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"verdicts +176 games +176 ", shown.stdout)
    assert "the budget is $5.00" in shown.stdout
    said = " ".join(shown.stdout.split())
    assert "To know a ratio of 7 to within a factor of 1.25 takes 747 decided pairs." in said


def test_the_doctor_finds_nothing_wrong_with_the_small_study(whole: Whole) -> None:
    findings = list(examine(whole.study.open()))
    assert [finding for finding in findings if not finding.is_good] == []
    assert {"home", "device", "journal", "student", "teacher"} <= {finding.subject for finding in findings}


def test_doctor_fails_on_missing_key_and_unreachable_endpoint(changeable: SmallStudy) -> None:
    hosted(changeable, "teacher")
    hosted(changeable, "judge", api_key=None)
    seen = changeable.call("doctor")
    assert seen.returncode == 1
    assert "✗ teacher's key: CANARY_KEY is not set; put the key of far" in seen.stdout
    assert "✗ judge's endpoint: far/openai/gpt-oss-120b: http://127.0.0.1:9 cannot be reached" in seen.stdout
    assert "✓ judge's key: far needs none" in seen.stdout


def test_the_doctor_shows_that_a_key_is_there_and_never_the_key(changeable: SmallStudy) -> None:
    hosted(changeable, "teacher")
    seen = changeable.call("doctor", CANARY_KEY=CANARY)
    assert "✓ teacher's key: CANARY_KEY is set" in seen.stdout
    assert CANARY not in seen.stdout + seen.stderr


def test_unreachable_endpoint_ends_the_run_before_anything_is_made(changeable: SmallStudy) -> None:
    hosted(changeable, "judge")
    before = changeable.run_ids()
    ran = changeable.call("run", CANARY_KEY=CANARY)
    assert ran.returncode == 2
    assert "far/openai/gpt-oss-120b: http://127.0.0.1:9 cannot be reached" in ran.stderr
    assert changeable.run_ids() == before


def test_doctor_reports_a_student_that_does_not_fit(changeable: SmallStudy) -> None:
    edit_yaml(changeable.profile, lambda profile: profile["student"].update(memory_gib=9_000.0))
    (bad,) = [finding for finding in examine(changeable.open()) if not finding.is_good]
    assert isinstance(bad, Finding)
    assert (bad.subject, "9000 are needed" in bad.text) == ("device", True)


def test_journal_command_releases_reservations_of_a_killed_process(changeable: SmallStudy) -> None:
    gone = {"id": "gone", "process": f"{socket.gethostname()}:1:1", "profile": "paid", "begun_at": 0.0, "seen_at": 0.0}
    journal = changeable.open().journal
    with journal.begin() as connection:
        row = with_checksum(HOLDERS, {**gone, "spent_usd": 0.5, "claimed_usd": 0.25})
        connection.execute(HOLDERS.insert().values(**row))
    assert re.search(r"paid +\$0\.5000 +\$0\.0000 +\$0\.2500", changeable.call("journal").stdout)
    settled = changeable.call("journal", "--settle", "paid").stdout
    assert "$0.2500 reserved by paid" in settled
    assert re.search(r"paid +\$0\.5000 +\$0\.0000 +\$0\.0000", settled)
    vars(journal)["_engine"].dispose()


def test_the_journal_command_counts_replies_and_tokens(whole: Whole) -> None:
    shown = whole.study.command("journal")
    rows = whole.study.open().store.all_of("synthetic_rows")[-1].facts
    assert re.search(rf"transformers/embedded +synthetic rows +{rows['kept'] + rows['rejected']} ", shown.stdout)
