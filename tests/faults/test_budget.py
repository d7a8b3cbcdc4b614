"""Fault 21: the budget is reached half-way. The cost is what the server billed, with or without a reply."""

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
from tests.helpers.chat_child import Job, child
from tests.helpers.chat_server import ChatServer, Rule
from tests.helpers.hosted_models import PRICES, answered, asks_of, context_of, expected, hosted, prompts, texts_of

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
def test_fault_21_budget_is_never_exceeded_and_a_raised_one_continues(
    server: ChatServer, tmp_path: Path, backend: str, concurrency: int
) -> None:
    spec, budget = priced(server, backend, concurrency=concurrency), 1.2
    context = context_of(tmp_path / "journal.sqlite", budget)
    with pytest.raises(BudgetReached) as caught:
        answered(spec, context, prompts(COUNT))
    limit, spent, next_usd = map(float, re.findall(r"\d+\.\d+", str(caught.value)))
    assert (limit, spent) == (budget, pytest.approx(billed(server), abs=1e-3))
    assert next_usd == pytest.approx(WORST_USD, abs=2e-3)
    assert budget - WORST_USD < billed(server) <= budget, "it stops too early or too late"
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
def test_fault_21_budget_holds_when_billed_requests_bring_no_reply(
    server: ChatServer, tmp_path: Path, fault: Rule
) -> None:
    server.script(fault)
    context = context_of(tmp_path / "journal.sqlite", 2.0)
    with pytest.raises(BudgetReached):
        answered(priced(server, timeout_seconds=0.5, max_request_attempts=20), context, prompts(COUNT))
    assert 0.0 < billed(server) <= 2.0
    assert billed(server) <= spending(context.journal)["spent_usd"] * 1.25, "it counts at least what was billed"
    assert spending(context.journal)["spent_usd"] <= 2.0


def test_fault_21_invalid_reply_without_usage_costs_its_worst_case(server: ChatServer, tmp_path: Path) -> None:
    failed = {"error": {"message": "no", "code": "json_validate_failed", "failed_generation": "{"}}
    server.script(Rule(status=400, body=json.dumps(failed)))
    context = context_of(tmp_path / "journal.sqlite", 10.0)
    (reply,) = answered(priced(server), context, prompts(COUNT)[-1:])
    assert (reply.finish_reason, reply.cost_usd) == ("invalid", pytest.approx(WORST_USD))
    assert spending(context.journal)["spent_usd"] == pytest.approx(WORST_USD)


def test_fault_21_no_request_when_the_first_could_exceed_the_budget(server: ChatServer, tmp_path: Path) -> None:
    with pytest.raises(BudgetReached, match=r"\b0\.10 .*\b0\.0000 "):
        answered(priced(server), context_of(tmp_path / "journal.sqlite", 0.1), prompts(COUNT))
    assert server.log().requests == []


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n", "best_of"])
def test_fault_21_extra_body_cannot_raise_the_cost_of_a_request(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        hosted("http://127.0.0.1:9", extra_body={field: 9})


def test_fault_21_free_requests_need_no_budget(server: ChatServer, tmp_path: Path) -> None:
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
    assert all(error.startswith("BudgetReached: ") and "5.00" in error for error in errors)
    assert billed(server) <= 5.0
    assert billed(server) > 5.0 / 2, "they block each other"
    assert spending(context_of(journal_url).journal)["spent_usd"] == pytest.approx(billed(server))
    assert len({prompt in texts[:200] for prompt in server.log().prompts}) == 2, "only one of them worked"


def test_fault_21_reservations_of_a_killed_process_stay_counted(
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


def test_fault_21_each_profile_name_has_its_own_budget(server: ChatServer, tmp_path: Path) -> None:
    for profile in ("one", "two"):
        with pytest.raises(BudgetReached):
            answered(priced(server), context_of(tmp_path / "journal.sqlite", 0.5, profile), prompts(COUNT))
    both = context_of(tmp_path / "journal.sqlite").journal.spending()
    assert [record["profile"] for record in both] == ["one", "two"]
    assert all(0.2 < record["spent_usd"] <= 0.5 for record in both)


def test_fault_21_run_closed_early_counts_requests_in_flight(server: ChatServer, tmp_path: Path) -> None:
    server.script(Rule(numbers=(1,), delay=0.5), Rule(act="hang"))
    context = context_of(tmp_path / "journal.sqlite", 10.0)
    model = chat_model(priced(server), context)
    replies = model.answers(asks_of(model, prompts(COUNT)), Work("rows", COUNT, SILENT))
    next(replies)
    replies.close()
    assert server.log().most_in_flight == 8
    assert spending(context.journal)["spent_usd"] >= billed(server)
    assert spending(context.journal)["claimed_usd"] == 0.0
