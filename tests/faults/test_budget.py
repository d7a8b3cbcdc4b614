"""Fault 21: the budget is reached half-way. What the server billed is the measure, whatever became of the replies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import BudgetReached
from synthpost_dagster.llm.chat_models import Work, chat_model
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.profiles.models import HostedChat
from synthpost_dagster.runtime.progress import SILENT
from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.child import Job, child
from tests.helpers.hosted_world import PRICES, answered, asks_of, context_of, expected, hosted, prompts, texts_of

COUNT = 60
NEW_TOKENS = 100
WORST_USD = ((len(prompts(COUNT)[-1]) + 64) * PRICES.input + NEW_TOKENS * PRICES.output) / 1e6


def priced(server: ChatServer, backend: str = "openai", **changes: Any) -> HostedChat:
    return hosted(server, backend, prices=PRICES, max_new_tokens=NEW_TOKENS, **changes)


def billed(server: ChatServer) -> float:
    return server.log().bill(PRICES.input, PRICES.output)


def spending(journal: Journal) -> dict[str, float]:
    """Dollars spent, claimed and unsettled of the one profile."""
    (record,) = journal.spending()
    return {name: value for name, value in record.items() if name != "profile"}


@pytest.mark.parametrize(("backend", "concurrency"), [("openai", 1), ("groq", 8)])
def test_fault_21_a_budget_reached_half_way_is_never_passed_and_the_run_goes_on_when_it_is_raised(
    server: ChatServer, tmp_path: Path, backend: str, concurrency: int
) -> None:
    spec, budget = priced(server, backend, concurrency=concurrency), 1.2
    context = context_of(tmp_path / "journal.sqlite", budget)
    with pytest.raises(BudgetReached) as caught:
        answered(spec, context, prompts(COUNT))
    said = re.fullmatch(
        r"the budget of profile faults is 1\.20 dollars, ([\d.]+) are spent, and the next request to scripted may cost "
        r"([\d.]+); raise `budget` in the profile and run again, it goes on from here",
        str(caught.value),
    )
    assert said
    assert float(said[1]) == pytest.approx(billed(server), abs=1e-3)
    assert float(said[2]) == pytest.approx(WORST_USD, abs=2e-3)
    assert budget - WORST_USD < billed(server) <= budget, "it stops early, or late"
    assert spending(context.journal) == pytest.approx(
        {"spent_usd": billed(server), "claimed_usd": 0.0, "unsettled_usd": 0.0}
    )
    raised = context_of(tmp_path / "journal.sqlite", 10.0)
    assert texts_of(answered(spec, raised, prompts(COUNT))) == expected(prompts(COUNT))
    assert sorted(server.log().prompts) == sorted(prompts(COUNT)), "nothing is paid for twice"
    assert spending(raised.journal)["spent_usd"] == pytest.approx(billed(server))


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize(
    "fault",
    [
        Rule(numbers=tuple(range(1, 200, 3)), act="drop"),
        Rule(numbers=tuple(range(1, 200, 3)), act="truncate"),
        Rule(numbers=(1, 2, 3, 5, 8), act="hang"),
        Rule(numbers=tuple(range(1, 200, 3)), body="no JSON"),
        Rule(usage="none"),
        Rule(usage="none", bytes_a_token=1),
        Rule(text="word " * 4 * NEW_TOKENS, finish_reason="length"),
    ],
    ids=["drop", "truncate", "hang", "no JSON", "no usage", "no usage and a token a byte", "longest replies"],
)
def test_fault_21_the_budget_holds_where_requests_are_billed_that_brought_no_reply(
    server: ChatServer, tmp_path: Path, fault: Rule
) -> None:
    server.script(fault)
    context = context_of(tmp_path / "journal.sqlite", 2.0)
    with pytest.raises(BudgetReached):
        answered(priced(server, timeout_seconds=0.5, max_request_attempts=20), context, prompts(COUNT))
    assert 0.0 < billed(server) <= 2.0
    assert billed(server) <= spending(context.journal)["spent_usd"] * 1.25, "what it counts is what was billed, or more"
    assert spending(context.journal)["spent_usd"] <= 2.0


def test_fault_21_a_reply_that_failed_its_schema_and_names_no_tokens_counts_at_its_worst(
    server: ChatServer, tmp_path: Path
) -> None:
    failed = {"error": {"message": "no", "code": "json_validate_failed", "failed_generation": "{"}}
    server.script(Rule(status=400, body=json.dumps(failed)))
    context = context_of(tmp_path / "journal.sqlite", 10.0)
    (reply,) = answered(priced(server), context, prompts(COUNT)[-1:])
    assert (reply.finish_reason, reply.cost_usd) == ("invalid", pytest.approx(WORST_USD))
    assert spending(context.journal)["spent_usd"] == pytest.approx(WORST_USD)


def test_fault_21_no_request_is_sent_where_the_first_may_pass_the_budget(server: ChatServer, tmp_path: Path) -> None:
    with pytest.raises(BudgetReached, match=r"is 0\.10 dollars, 0\.0000 are spent"):
        answered(priced(server), context_of(tmp_path / "journal.sqlite", 0.1), prompts(COUNT))
    assert server.log().requests == []


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n", "best_of"])
def test_fault_21_no_further_field_of_a_request_can_make_it_dearer_than_reckoned(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} cannot be set here"):
        hosted("http://127.0.0.1:9", extra_body={field: 9})


def test_fault_21_requests_that_are_free_need_no_budget(server: ChatServer, tmp_path: Path) -> None:
    free = PRICES.model_copy(update={"input": 0.0, "output": 0.0})
    context = context_of(tmp_path / "journal.sqlite", 0.0)
    assert texts_of(answered(hosted(server, prices=free), context, prompts(20))) == expected(prompts(20))


def test_fault_21_two_processes_share_one_budget(server: ChatServer, tmp_path: Path, journal_url: str) -> None:
    server.script(Rule(delay=0.02))
    texts = prompts(400)
    spec = priced(server, "groq", concurrency=4)
    job = Job("texts", journal_url, spec.model_dump(), budget=5.0)
    with (
        child(job._replace(prompts=texts[:200]), tmp_path) as one,
        child(job._replace(prompts=texts[200:]), tmp_path) as other,
    ):
        errors = [one.result().error, other.result().error]
    assert all(error.startswith("BudgetReached: the budget of profile faults is 5.00 dollars") for error in errors)
    assert billed(server) <= 5.0
    assert billed(server) > 5.0 / 2, "they hold each other up"
    assert spending(context_of(journal_url).journal)["spent_usd"] == pytest.approx(billed(server))
    assert len({prompt in texts[:200] for prompt in server.log().prompts}) == 2, "only one of them worked"


def test_fault_21_what_a_killed_process_had_claimed_stays_counted(
    server: ChatServer, tmp_path: Path, journal_url: str
) -> None:
    server.script(Rule(numbers=tuple(range(1, 9))), Rule(act="hang"))
    spec = priced(server, "groq", concurrency=8)
    job = Job("texts", journal_url, spec.model_dump(), budget=6.0, prompts=prompts(COUNT))
    with child(job, tmp_path) as killed:
        server.wait_for(lambda log: len(log.requests) >= 16)
        killed.kill()
    journal = context_of(journal_url).journal
    left = spending(journal)
    assert left["claimed_usd"] == 0.0
    assert left["unsettled_usd"] >= 8 * WORST_USD * 0.99
    first = billed(server)
    server.script()
    with pytest.raises(BudgetReached):
        answered(spec, context_of(journal_url, left["spent_usd"] + left["unsettled_usd"] + 1.0), prompts(COUNT))
    assert 0.0 < billed(server) <= 1.0
    assert spending(journal)["unsettled_usd"] == left["unsettled_usd"]
    assert first <= left["spent_usd"] + left["unsettled_usd"]


def test_fault_21_a_profile_of_another_name_has_a_budget_of_its_own(server: ChatServer, tmp_path: Path) -> None:
    for profile in ("one", "two"):
        with pytest.raises(BudgetReached):
            answered(priced(server), context_of(tmp_path / "journal.sqlite", 0.5, profile), prompts(COUNT))
    both = context_of(tmp_path / "journal.sqlite").journal.spending()
    assert [record["profile"] for record in both] == ["one", "two"]
    assert all(0.2 < record["spent_usd"] <= 0.5 for record in both)


def test_fault_21_a_run_that_is_closed_early_counts_what_was_in_flight(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(numbers=(1,), delay=0.5), Rule(act="hang"))
    context = context_of(tmp_path / "journal.sqlite", 10.0)
    model = chat_model(priced(server), context)
    replies = model.answers(asks_of(model, prompts(COUNT)), Work("rows", COUNT, SILENT))
    next(replies)
    replies.close()
    assert server.log().most_in_flight == 8
    assert spending(context.journal)["spent_usd"] >= billed(server)
    assert spending(context.journal)["claimed_usd"] == 0.0
