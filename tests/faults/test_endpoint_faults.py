"""Faults 1 to 6: an endpoint that is busy, fails, times out, refuses the key or no longer has the model."""

from __future__ import annotations

import json
import logging
import re
import traceback
from pathlib import Path

import pytest

from synthpost_dagster.errors import EndpointError, SynthpostError
from synthpost_dagster.llm.chat_models import Context, chat_model
from synthpost_dagster.llm.transport import LOGGERS
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.rows.synthesis import synthesize
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.tasks.task import Task
from tests.helpers.chat_server import MODELS, SERVED, ChatServer, Rule
from tests.helpers.hosted_models import (
    KEY,
    KEY_NAME,
    PRICES,
    answered,
    checked,
    context_of,
    expected,
    hosted,
    prompts,
    texts_of,
)

WORST_USD = ((len("Write about number 0.") + 64) * PRICES.input + 256 * PRICES.output) / 1e6
"""What a request for one of the prompts can cost at most: bytes and the template's frame, and all new tokens."""


def failure(server: ChatServer, context: Context, backend: str, count: int, **changes: object) -> SynthpostError:
    with pytest.raises(SynthpostError) as caught:
        answered(hosted(server, backend, **changes), context, prompts(count))
    return caught.value


def test_fault_01_retry_after_is_respected_and_makes_one_row(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(numbers=(2,), status=429, headers={"retry-after": "2"}))
    replies = answered(hosted(server, backend, concurrency=1), context, prompts(3))
    assert texts_of(replies) == expected(prompts(3))
    assert [reply.tries for reply in replies] == [1, 2, 1]
    _, turned_away, again, _ = server.log().requests
    assert (turned_away.prompt, turned_away.status) == (again.prompt, 429)
    assert again.at - turned_away.ended_at >= 2.0
    assert [record["replies"] for record in context.journal.summary()] == [3]


def test_fault_01_retry_after_in_milliseconds_is_respected(server: ChatServer, context: Context, backend: str) -> None:
    server.script(Rule(numbers=(1,), status=529, headers={"retry-after-ms": "700", "retry-after": "0"}))
    answered(hosted(server, backend), context, prompts(1))
    first, second = server.log().requests
    assert second.at - first.ended_at >= 0.7


def test_fault_02_retry_after_an_hour_ends_the_run_which_resumes_later(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(numbers=(1, 2, 3, 4, 5)), Rule(status=429, headers={"retry-after": "3600"}))
    error = failure(server, context, backend, 40)
    assert isinstance(error, EndpointError)
    assert re.search(r"\b1 h 0 min\b.* \d{4}-\d\d-\d\d \d\d:\d\d", str(error))
    assert "5 of 40" in str(error)
    assert len(server.log().requests) <= 5 + 8, "more than were in flight when it said so"
    server.script()
    replies = answered(hosted(server, backend), context, prompts(40))
    assert texts_of(replies) == expected(prompts(40))
    assert len(server.log().requests) == 35
    assert not set(server.log().prompts) & set(prompts(5))


@pytest.mark.usefixtures("quick_backoff")
def test_fault_03_two_failures_and_a_reply_make_one_row_with_attempts(
    server: ChatServer, context: Context, backend: str
) -> None:
    statuses = [500, 502, 504, 408, 409]
    server.script(*(Rule(marker=f"number {n}.", times=2, status=status) for n, status in enumerate(statuses, start=1)))
    replies = answered(hosted(server, backend), context, prompts(6))
    assert texts_of(replies) == expected(prompts(6))
    assert [reply.tries for reply in replies] == [1, 3, 3, 3, 3, 3]
    assert len(server.log().requests) == 16
    (record,) = context.journal.summary()
    assert (record["replies"], record["tries"]) == (6, 16)


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize("act", ["drop", "reset", "truncate"])
def test_fault_03_broken_connection_is_retried_and_counts_as_paid(
    server: ChatServer, context: Context, backend: str, act: str
) -> None:
    server.script(Rule(numbers=(1,), act=act))
    (reply,) = answered(hosted(server, backend, prices=PRICES), context, prompts(1))
    assert (reply.text, reply.tries) == (*expected(prompts(1)), 2)
    assert reply.lost_usd == pytest.approx(WORST_USD)
    assert context.journal.spending()[0]["spent_usd"] >= server.log().bill(PRICES.input, PRICES.output)


@pytest.mark.usefixtures("quick_backoff")
def test_fault_03_persistent_failure_ends_the_run_and_keeps_replies(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(marker="number 4.", status=500))
    error = failure(server, context, backend, 5, concurrency=1)
    assert re.search(r"\b3\b.*500: scripted 500.*\b4 of 5\b", str(error))
    assert server.log().prompts.count(prompts(5)[4]) == 3


@pytest.mark.usefixtures("quick_backoff")
def test_fault_03_one_request_that_keeps_failing_is_a_rejected_row(server: ChatServer, context: Context) -> None:
    server.script(Rule(marker="number 0.", status=500, delay=0.2), Rule(delay=0.01))
    replies = answered(hosted(server, concurrency=2), context, prompts(40))
    assert (replies[0].finish_reason, replies[0].text) == ("refused", "500: scripted 500")
    assert replies[0].tries == server.log().prompts.count(prompts(1)[0]) == 3
    assert texts_of(replies[1:]) == expected(prompts(40))[1:]
    assert replies[0].key not in context.journal.find([reply.key for reply in replies])


@pytest.mark.usefixtures("quick_backoff")
def test_fault_04_timed_out_request_is_retried_under_the_same_key(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(numbers=(1,), act="hang"))
    (reply,) = answered(hosted(server, backend, timeout_seconds=0.4, prices=PRICES), context, prompts(1))
    first, second = server.log().requests
    assert (first.body, first.is_answered) == (second.body, False)
    assert (reply.text, reply.tries) == (*expected(prompts(1)), 2)
    assert reply.lost_usd == pytest.approx(WORST_USD), "the request without a reply may be on the bill"
    (record,) = context.journal.summary()
    assert (record["replies"], record["tries"]) == (1, 2)


@pytest.mark.usefixtures("quick_backoff")
def test_fault_04_slow_reply_times_out_and_is_retried(server: ChatServer, context: Context, backend: str) -> None:
    server.script(Rule(numbers=(1,), act="trickle"))
    (reply,) = answered(hosted(server, backend, timeout_seconds=0.5), context, prompts(1))
    assert (reply.text, reply.tries) == (*expected(prompts(1)), 2)


@pytest.mark.parametrize("status", [401, 403])
def test_fault_05_refused_key_fails_at_once_and_appears_nowhere(
    server: ChatServer,
    tmp_path: Path,
    backend: str,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    context = context_of(tmp_path / "journal.sqlite")
    said = {"error": {"message": "the header 'Authorization: {authorization}' is wrong", "code": "invalid_api_key"}}
    server.script(Rule(status=status, body=json.dumps(said)))
    with caplog.at_level(logging.DEBUG):
        error = failure(server, context, backend, 20, concurrency=1)
    (asked,) = server.log().requests
    assert asked.authorization == f"Bearer {KEY}"
    assert isinstance(error, EndpointError)
    assert f"{KEY_NAME} ({status}: the header 'Authorization: Bearer [key]' is wrong)" in str(error)
    assert_key_nowhere(tmp_path, caplog, capfd, "".join(traceback.format_exception(error)))


def test_fault_05_key_repeated_by_an_endpoint_is_not_stored_or_logged(
    server: ChatServer,
    small_task: Task,
    tmp_path: Path,
    backend: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    failed = {"error": {"message": "no", "code": "json_validate_failed", "failed_generation": "It is {authorization}!"}}
    server.script(
        Rule(numbers=(1,), text="The key is {authorization}.", model="model-{authorization}"),
        Rule(numbers=(2,), status=400, body=json.dumps({"error": {"message": "odd header {authorization}"}})),
        Rule(numbers=(3,), status=400, body=json.dumps(failed)),
        Rule(numbers=(4,), body="no JSON but {authorization}"),
    )
    context = context_of(tmp_path / "journal.sqlite")
    with caplog.at_level(logging.DEBUG):
        teacher = chat_model(hosted(server, backend, concurrency=1, max_replies_per_row=1), context)
        made = synthesize(small_task, training_prompts(small_task), teacher, 1, 8, None, SILENT)
    assert "The key is Bearer [key]." in made["post"].tolist()
    made.to_json(tmp_path / "table.json")
    assert_key_nowhere(tmp_path, caplog, capfd, repr(teacher.tally.facts))


def test_fault_05_key_in_a_response_header_is_not_logged(
    server: ChatServer,
    tmp_path: Path,
    backend: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.script(Rule(headers={"x-seen": "{authorization}"}))
    with caplog.at_level(logging.DEBUG):
        answered(hosted(server, backend), context_of(tmp_path / "journal.sqlite"), prompts(1))
    assert_key_nowhere(tmp_path, caplog, capfd, "")


@pytest.mark.parametrize(("level", "expected_level"), [("DEBUG", "WARNING"), ("NOTSET", "WARNING"), ("ERROR", "ERROR")])
def test_sdks_log_no_line_per_request_and_keep_their_level(
    server: ChatServer, context: Context, backend: str, level: str, expected_level: str
) -> None:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        answered(hosted(server, backend), context, prompts(1))
        assert {logging.getLevelName(logger.getEffectiveLevel()) for logger in loggers} == {expected_level}
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)


def assert_key_nowhere(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    assert KEY not in text
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert folder / "journal.sqlite" in files
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []


def test_fault_05_missing_key_is_named_and_nothing_is_requested(
    server: ChatServer, context: Context, backend: str
) -> None:
    error = failure(server, context._replace(secret=lambda name: None), backend, 3)
    assert KEY_NAME in str(error)
    assert server.log().requests == []


def test_fault_06_missing_model_is_named_with_the_models_offered(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(status=404))
    error = failure(server, context, backend, 20, concurrency=1, model="old-model")
    named = ("scripted: ", "old-model (404: scripted 404)", ", ".join(sorted(MODELS)))
    assert [value for value in named if value not in str(error)] == []
    assert [seen.body["model"] for seen in server.log().requests] == ["old-model"]


def test_fault_06_model_that_answers_under_another_name_is_recorded(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(model="other-model"))
    (reply,) = answered(hosted(server, backend), context, prompts(1))
    assert (reply.model, reply.served_model) == (SERVED, "other-model")


def test_refused_connection_names_the_address_and_costs_nothing(context: Context, backend: str) -> None:
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9\b"):
        answered(hosted("http://127.0.0.1:9", backend, max_request_attempts=1, prices=PRICES), context, prompts(1))
    assert context.journal.spending()[0]["spent_usd"] == 0.0


NO_MESSAGE = [
    "",
    "<html>busy</html>",
    "null",
    "[]",
    '"text"',
    "{}",
    '{"choices": []}',
    '{"choices": ["text"]}',
    '{"choices": [{"message": null}]}',
    '{"choices": [{"message": ["text"]}]}',
    '{"choices": [{"message": {"content": "x"',
]


@pytest.mark.usefixtures("quick_backoff")
def test_reply_without_a_message_is_retried(server: ChatServer, context: Context, backend: str) -> None:
    texts = prompts(len(NO_MESSAGE))
    server.script(*(Rule(marker=text, times=1, body=body) for text, body in zip(texts, NO_MESSAGE, strict=True)))
    replies = answered(hosted(server, backend), context, texts)
    assert texts_of(replies) == expected(texts)
    assert {reply.tries for reply in replies} == {2}


@pytest.mark.usefixtures("quick_backoff")
def test_endpoint_without_messages_in_its_replies_ends_the_run(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(body="<html>busy</html>"))
    error = failure(server, context, backend, 1, max_request_attempts=2)
    assert re.search(r"\b2\b.*<html>busy</html>", str(error))
    assert len(server.log().requests) == 2


NO_USAGE = ["none", None, "many", [1], {}, {"prompt_tokens": None}, {"completion_tokens": -1}, {"prompt_tokens": 1.5}]


def test_tokens_are_estimated_without_usage(server: ChatServer, context: Context, backend: str) -> None:
    texts = [f"{number}" * 80 for number in range(len(NO_USAGE))]
    server.script(*(Rule(marker=text, usage=usage, text="x" * 40) for text, usage in zip(texts, NO_USAGE, strict=True)))
    replies = answered(hosted(server, backend, prices=PRICES), context, texts)
    assert [(reply.prompt_tokens, reply.completion_tokens) for reply in replies] == [(20, 10)] * len(texts)
    assert {reply.cost_usd for reply in replies} == {(20 * PRICES.input + 10 * PRICES.output) / 1e6}


ODD = {
    "half a surrogate pair": Rule(model="half \ud83d"),
    "NUL": Rule(model="nul \x00"),
    "a long name": Rule(model="m" * 5_000),
    "more tokens than a column holds": Rule(usage={"prompt_tokens": 10**30, "completion_tokens": 10**30}),
    "a finish reason of its own": Rule(finish_reason="never heard of"),
    "half a surrogate pair in a part": Rule(body=json.dumps({"choices": [{"message": {"content": ["\ud83d"]}}]})),
    "a part that is an image": Rule(body=json.dumps({"choices": [{"message": {"content": [{"type": "image"}]}}]})),
}


@pytest.mark.parametrize("rule", ODD.values(), ids=ODD)
def test_odd_facts_about_a_reply_do_not_stop_the_run(server: ChatServer, journal_url: str, rule: Rule) -> None:
    server.script(rule)
    assert len(answered(hosted(server), context_of(journal_url), prompts(2))) == 2
    assert context_of(journal_url).journal.summary()[0]["replies"] == 2


def test_single_refused_request_is_a_rejected_row_with_its_reason(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(marker="number 2.", status=400, body=json.dumps({"error": {"message": "too rude"}})))
    replies = answered(hosted(server, backend), context, prompts(20))
    assert [reply.finish_reason for reply in replies].count("refused") == 1
    assert (replies[2].text, replies[2].finish_reason) == ("400: too rude", "refused")
    assert set(context.journal.find([reply.key for reply in replies])) == {r.key for r in replies} - {replies[2].key}


def test_endpoint_that_refuses_every_request_ends_the_run(server: ChatServer, context: Context, backend: str) -> None:
    server.script(Rule(status=422))
    error = failure(server, context, backend, 100)
    assert re.search(r"422: scripted 422.*\b0 of 100\b", str(error))
    assert len(server.log().requests) <= 5 + 8


def test_account_without_credit_ends_the_run(server: ChatServer, context: Context, backend: str) -> None:
    server.script(Rule(status=429, body=json.dumps({"error": {"message": "pay", "code": "insufficient_quota"}})))
    error = failure(server, context, backend, 20, concurrency=1)
    assert "429: pay" in str(error)
    assert len(server.log().requests) == 1


USELESS = {
    "still loading": (Rule(to="models", status=503), "503: "),
    "broken": (Rule(to="models", status=500), "500: "),
    "a page": (Rule(to="models", body="<html>Sign in</html>"), r"http://\S+ .*<html>.*/v1"),
    "no credit": (Rule(to="models", status=402), "402: "),
}


@pytest.mark.parametrize(("rule", "said"), USELESS.values(), ids=USELESS)
def test_check_detects_an_endpoint_where_every_request_fails(
    server: ChatServer, context: Context, backend: str, rule: Rule, said: str
) -> None:
    server.script(rule)
    with pytest.raises(EndpointError, match=said):
        checked(server, context, backend)
    assert server.log().requests == []


def test_check_names_an_address_without_an_api(server: ChatServer, context: Context, backend: str) -> None:
    address = f"http://127.0.0.1:{server.port}/elsewhere"
    with pytest.raises(EndpointError, match=rf"{address}/? \(404: .*/v1"):
        checked(address, context, backend)


@pytest.mark.parametrize(
    "rules",
    [
        [Rule(to="models", body='{"data": []}')],
        [Rule(to="models", body='{"object": "list"}')],
        [Rule(to="models", body="null")],
        [Rule(to="models", status=429)],
        [Rule(to="models", status=404), Rule(status=400)],
    ],
    ids=["empty", "no list", "null", "busy", "chats alone"],
)
def test_endpoint_without_a_list_of_models_can_be_used(
    server: ChatServer, context: Context, backend: str, rules: list[Rule]
) -> None:
    server.script(*rules)
    assert not checked(server, context, backend).is_warning
    assert len(server.log().requests) == sum(rule.to == "chat" for rule in rules), "an empty chat is no request"


@pytest.mark.parametrize("body", [None, json.dumps([{"id": SERVED}])], ids=["under data", "alone"])
def test_check_accepts_an_endpoint_that_lists_its_model(
    server: ChatServer, context: Context, backend: str, body: str | None
) -> None:
    server.script(Rule(to="models", body=body))
    found = checked(server, context, backend)
    assert (SERVED in found.text, found.is_warning) == (True, False)
