"""Faults 1 to 6: an endpoint that turns away, fails, falls silent, refuses the key or has lost the model."""

from __future__ import annotations

import json
import logging
import re
import traceback
from pathlib import Path

import pytest

from synthpost_dagster.errors import EndpointError, SynthpostError
from synthpost_dagster.llm.chat_models import Context, chat_model
from synthpost_dagster.llm.hosted import HostedModel
from synthpost_dagster.llm.offers import Checked
from synthpost_dagster.llm.sdk import LOGGERS
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.rows.synthesis import synthesize
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.tasks.task import Task
from tests.helpers.chat_server import MODELS, SERVED, ChatServer, Rule
from tests.helpers.hosted_world import KEY, KEY_NAME, PRICES, answered, context_of, expected, hosted, prompts, texts_of

WORST_USD = ((len("Write about number 0.") + 64) * PRICES.input + 256 * PRICES.output) / 1e6
"""What a request for one of the prompts can cost at most: bytes and the template's frame, and all new tokens."""


def failure(server: ChatServer, context: Context, backend: str, count: int, **changes: object) -> SynthpostError:
    with pytest.raises(SynthpostError) as caught:
        answered(hosted(server, backend, **changes), context, prompts(count))
    return caught.value


def test_fault_01_429_with_retry_after_is_waited_for_by_all_and_makes_one_row(
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


def test_fault_01_a_pause_in_milliseconds_or_until_a_date_is_waited_for(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(numbers=(1,), status=529, headers={"retry-after-ms": "700", "retry-after": "0"}))
    answered(hosted(server, backend), context, prompts(1))
    first, second = server.log().requests
    assert second.at - first.ended_at >= 0.7


def test_fault_02_429_with_an_hour_to_wait_ends_the_run_at_once_and_it_goes_on_later(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(numbers=(1, 2, 3, 4, 5)), Rule(status=429, headers={"retry-after": "3600"}))
    error = failure(server, context, backend, 40)
    assert isinstance(error, EndpointError)
    assert re.search(
        r"asks to come back in 1 h 0 min, after \d{4}-\d\d-\d\d \d\d:\d\d; run the same command", str(error)
    )
    assert "5 of 40 replies are in the journal" in str(error)
    assert len(server.log().requests) <= 5 + 8, "a storm: more than were in flight when it said so"
    server.script()
    replies = answered(hosted(server, backend), context, prompts(40))
    assert texts_of(replies) == expected(prompts(40))
    assert len(server.log().requests) == 35
    assert not set(server.log().prompts) & set(prompts(5))


@pytest.mark.usefixtures("quick_backoff")
def test_fault_03_two_failures_and_then_a_reply_make_one_row_that_counts_its_tries(
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
def test_fault_03_a_line_that_breaks_is_tried_again_and_counts_as_perhaps_paid(
    server: ChatServer, context: Context, backend: str, act: str
) -> None:
    server.script(Rule(numbers=(1,), act=act))
    (reply,) = answered(hosted(server, backend, prices=PRICES), context, prompts(1))
    assert (reply.text, reply.tries) == (*expected(prompts(1)), 2)
    assert reply.lost_usd == pytest.approx(WORST_USD)
    assert context.journal.spending()[0]["spent_usd"] >= server.log().bill(PRICES.input, PRICES.output)


@pytest.mark.usefixtures("quick_backoff")
def test_fault_03_a_failure_that_stays_ends_the_run_and_what_was_answered_is_safe(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(marker="number 4.", status=500))
    error = failure(server, context, backend, 5, concurrency=1)
    assert "failed 3 times in a row: 500: scripted 500" in str(error)
    assert "4 of 5 replies are in the journal" in str(error)
    assert server.log().prompts.count(prompts(5)[4]) == 3


@pytest.mark.usefixtures("quick_backoff")
def test_fault_03_one_request_that_keeps_failing_while_others_are_answered_is_a_rejected_row(
    server: ChatServer, context: Context
) -> None:
    server.script(Rule(marker="number 0.", status=500, delay=0.2), Rule(delay=0.01))
    replies = answered(hosted(server, concurrency=2), context, prompts(40))
    assert (replies[0].finish_reason, replies[0].text) == ("refused", "500: scripted 500")
    assert replies[0].tries == server.log().prompts.count(prompts(1)[0]) == 3
    assert texts_of(replies[1:]) == expected(prompts(40))[1:]
    assert replies[0].key not in context.journal.find([reply.key for reply in replies])


@pytest.mark.usefixtures("quick_backoff")
def test_fault_04_a_request_without_a_reply_in_time_is_asked_again_under_the_same_key(
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
def test_fault_04_a_reply_that_trickles_in_longer_than_its_time_is_given_up(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(numbers=(1,), act="trickle"))
    (reply,) = answered(hosted(server, backend, timeout_seconds=0.5), context, prompts(1))
    assert (reply.text, reply.tries) == (*expected(prompts(1)), 2)


@pytest.mark.parametrize("status", [401, 403])
def test_fault_05_a_refused_key_fails_at_once_and_is_nowhere_to_be_read(
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
    assert f"refuses the key in {KEY_NAME} ({status}: the header 'Authorization: Bearer [key]' is wrong)" in str(error)
    assert_key_nowhere(tmp_path, caplog, capfd, "".join(traceback.format_exception(error)))


def test_fault_05_a_key_that_an_endpoint_repeats_is_in_no_journal_table_or_log(
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


def test_fault_05_a_key_in_a_header_of_the_reply_is_in_no_log(
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
def test_the_sdks_log_neither_a_line_a_request_nor_more_than_before(
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


def test_fault_05_a_key_that_is_not_set_is_named_and_nothing_is_asked(
    server: ChatServer, context: Context, backend: str
) -> None:
    error = failure(server, context._replace(secret=lambda name: None), backend, 3)
    assert f"the environment variable {KEY_NAME} is not set" in str(error)
    assert server.log().requests == []


def test_fault_06_a_model_that_is_gone_is_named_with_those_offered_and_no_other_is_asked(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(status=404))
    error = failure(server, context, backend, 20, concurrency=1, model="old-model")
    assert str(error).startswith("scripted: has no model old-model (404: scripted 404); it offers ")
    assert ", ".join(sorted(MODELS)) in str(error)
    assert [seen.body["model"] for seen in server.log().requests] == ["old-model"]


def test_fault_06_a_model_that_answers_under_another_name_is_noted(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(model="other-model"))
    (reply,) = answered(hosted(server, backend), context, prompts(1))
    assert (reply.model, reply.served_model) == (SERVED, "other-model")


def test_a_connection_that_is_refused_names_the_address_and_costs_nothing(context: Context, backend: str) -> None:
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9\S* cannot be reached .*is the server up\?"):
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
def test_a_reply_without_a_message_is_tried_again(server: ChatServer, context: Context, backend: str) -> None:
    texts = prompts(len(NO_MESSAGE))
    server.script(*(Rule(marker=text, times=1, body=body) for text, body in zip(texts, NO_MESSAGE, strict=True)))
    replies = answered(hosted(server, backend), context, texts)
    assert texts_of(replies) == expected(texts)
    assert {reply.tries for reply in replies} == {2}


@pytest.mark.usefixtures("quick_backoff")
def test_an_endpoint_whose_replies_hold_no_message_ends_the_run(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(body="<html>busy</html>"))
    error = failure(server, context, backend, 1, max_request_attempts=2)
    assert "failed 2 times in a row: a reply without a message: <html>busy</html>" in str(error)
    assert len(server.log().requests) == 2


NO_USAGE = ["none", None, "many", [1], {}, {"prompt_tokens": None}, {"completion_tokens": -1}, {"prompt_tokens": 1.5}]


def test_an_endpoint_that_does_not_count_tokens_has_them_estimated(
    server: ChatServer, context: Context, backend: str
) -> None:
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


def test_a_request_that_alone_is_refused_is_a_rejected_row_with_its_reason(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(marker="number 2.", status=400, body=json.dumps({"error": {"message": "too rude"}})))
    replies = answered(hosted(server, backend), context, prompts(20))
    assert [reply.finish_reason for reply in replies].count("refused") == 1
    assert (replies[2].text, replies[2].finish_reason) == ("400: too rude", "refused")
    assert set(context.journal.find([reply.key for reply in replies])) == {r.key for r in replies} - {replies[2].key}


def test_an_endpoint_that_refuses_every_request_ends_the_run(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(status=422))
    error = failure(server, context, backend, 100)
    assert "refuses every request: 422: scripted 422" in str(error)
    assert "(0 of 100 replies are in the journal)" in str(error)
    assert len(server.log().requests) <= 5 + 8


def test_an_account_without_credit_ends_the_run_with_what_to_do(
    server: ChatServer, context: Context, backend: str
) -> None:
    server.script(Rule(status=429, body=json.dumps({"error": {"message": "pay", "code": "insufficient_quota"}})))
    error = failure(server, context, backend, 20, concurrency=1)
    assert "has no credit (429: pay); top it up and run again" in str(error)
    assert len(server.log().requests) == 1


def checked(server: ChatServer | str, context: Context, backend: str, **changes: object) -> Checked:
    model = chat_model(hosted(server, backend, **changes), context)
    assert isinstance(model, HostedModel)
    return model.check()


USELESS = {
    "still loading": (Rule(to="models", status=503), "503: .*; wait until it is up, or mend it"),
    "broken": (Rule(to="models", status=500), "500: .*; wait until it is up, or mend it"),
    "a page": (Rule(to="models", body="<html>Sign in</html>"), r"no API at http://\S+ \(no JSON: <html>.*end in /v1\?"),
    "no credit": (Rule(to="models", status=402), "has no credit"),
}


@pytest.mark.parametrize(("rule", "said"), USELESS.values(), ids=USELESS)
def test_an_endpoint_where_every_request_will_fail_is_found_out_before_any(
    server: ChatServer, context: Context, backend: str, rule: Rule, said: str
) -> None:
    server.script(rule)
    with pytest.raises(EndpointError, match=said):
        checked(server, context, backend)
    assert server.log().requests == []


def test_an_address_without_an_api_is_named_before_any_request(
    server: ChatServer, context: Context, backend: str
) -> None:
    address = f"http://127.0.0.1:{server.port}/elsewhere"
    with pytest.raises(EndpointError, match=rf"no API at {address}/? \(404: .*does it end in /v1\?"):
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
def test_an_endpoint_that_does_not_list_its_models_may_be_asked_all_the_same(
    server: ChatServer, context: Context, backend: str, rules: list[Rule]
) -> None:
    server.script(*rules)
    assert not checked(server, context, backend).is_warning
    assert len(server.log().requests) == sum(rule.to == "chat" for rule in rules), "an empty chat is no request"


@pytest.mark.parametrize("body", [None, json.dumps([{"id": SERVED}])], ids=["under data", "alone"])
def test_an_endpoint_that_lists_its_model_is_good(
    server: ChatServer, context: Context, backend: str, body: str | None
) -> None:
    server.script(Rule(to="models", body=body))
    assert checked(server, context, backend) == Checked("scripted is there and offers served-model")
