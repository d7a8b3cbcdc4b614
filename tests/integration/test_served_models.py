"""A server that is not ours: `transformers serve` with the embedded model, asked by itself, and as teacher and judge of
a small run.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.llm.chat_models import Context, Work, ask_for, chat_model
from synthpost_dagster.llm.client import HostedModel
from synthpost_dagster.profiles.models import HostedChat
from synthpost_dagster.runtime.progress import SILENT
from tests.helpers.small_study import BIN, SmallStudy, edit_yaml

Until = Callable[..., object]


@pytest.fixture
def address(tmp_path: Path, until: Until) -> Iterator[str]:
    """The base URL of a running `transformers serve`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(MODEL_FOLDER), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    # It lists the models of its hub cache, and answers 500 to that where there is none, as on a new machine.
    cache = tmp_path / "hub"
    cache.mkdir()
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "serve.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [str(BIN / "transformers"), "serve", *arguments], stdout=out, stderr=out, env=environment
        )
    try:

        def answers() -> bool:
            assert server.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
                    return bool(reply.status == 200)
            except OSError:
                return False

        until("transformers serve", answers)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def served(address: str, max_new_tokens: int) -> dict[str, Any]:
    return {
        "backend": "openai",
        "endpoint": "served",
        "base_url": address,
        "api_key": None,
        "model": str(MODEL_FOLDER),
        "revision": None,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": max_new_tokens, "seed": 7},
        "max_tokens_as": "max_tokens",
        "structured_output": "none",
        "extra_body": {},
        "prices": {"input": 1.0, "output": 2.0},
        "limits": {
            "concurrency": 4,
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "timeout_seconds": 120,
            "max_request_attempts": 2,
            "max_retry_wait_seconds": 5,
        },
        "max_replies_per_row": 2,
    }


def without_a_teacher(study: SmallStudy) -> None:
    """The rows are there, so the run goes on though their teacher has gone; more rows would need it."""

    def leave(profile: dict[str, Any]) -> None:
        profile["teacher"]["base_url"] = "http://127.0.0.1:9/v1"
        profile["judges"] = [{"backend": "rubric"}]

    edit_yaml(study.profile, leave)
    made = study.command("run", "--data-sizes", "8", "--steps", "3")
    assert made.returncode == 0, made.stdout + made.stderr
    more = study.command("run", "--data-sizes", "16", "--steps", "3")
    assert (more.returncode, "127.0.0.1:9/v1/ cannot be reached" in more.stderr) == (2, True), more.stderr


def test_a_served_model_answers_and_counts_its_tokens(address: str, context: Context) -> None:
    model = chat_model(HostedChat.model_validate(served(address, 8)), context)
    assert isinstance(model, HostedModel)
    model.check()
    asks = [ask_for(model, chat(text), 0) for text in ("Write about a boat.", "Write about a tent.")]
    replies = list(model.answers(asks, Work("rows", len(asks), SILENT)))
    assert [(reply.finish_reason, reply.completion_tokens) for reply in replies] == [("length", 8)] * 2
    assert all(reply.text and reply.prompt_tokens > 3 for reply in replies)
    (record,) = context.journal.spending()
    paid = sum(reply.prompt_tokens + 2 * reply.completion_tokens for reply in replies) / 1e6
    assert record["spent_usd"] == pytest.approx(paid)
    vars(context.journal)["_engine"].dispose()


@pytest.mark.slow
def test_a_small_run_with_a_served_teacher_and_judge(fresh: SmallStudy, address: str) -> None:
    def serve(profile: dict[str, Any]) -> None:
        profile["teacher"], profile["judges"] = served(address, 320), [served(address, 8)]
        profile["budget"] = 1.0

    edit_yaml(fresh.profile, serve)
    doctor = fresh.command("doctor")
    assert (doctor.returncode, "served is reachable" in doctor.stdout) == (0, True), doctor.stdout
    made = fresh.command("run", "--data-sizes", "8", "--steps", "3", timeout=1200)
    assert made.returncode == 0, made.stdout + made.stderr
    study = fresh.open()
    rows = study.store.read_table(study.store.all_of("synthetic_rows")[-1])
    assert set(rows["teacher_model"]) == {f"served/{MODEL_FOLDER}"}
    assert (rows["status"] == "kept").sum() == 8
    # It writes posts and never a verdict: every pair is shown as unscored, none is dropped or guessed.
    (manifest,) = study.store.all_of("verdicts", "8|3")
    games = study.store.read_table(manifest)
    assert set(games["outcome"]) == {"unscored"}
    assert set(games["attempts"]) == {2}
    assert (games["raw_reply"].str.len() > 0).all(), "every reply is kept"
    assert set(games["reason"]) <= {"reply cut off", "no verdict in the reply"}
    assert (games["prompt_tokens"] > 100).all() and (games["completion_tokens"] > 0).all()
    (controls,) = study.store.all_of("control_verdicts")
    rows_cost = study.store.all_of("synthetic_rows")[-1].facts["cost_usd"]
    spent = manifest.facts["cost_usd"] + controls.facts["cost_usd"] + rows_cost
    (record,) = study.journal.spending()
    assert record["spent_usd"] == pytest.approx(spent, abs=1e-5) and spent > 0
    again = fresh.command("run", "--data-sizes", "8", "--steps", "3")
    assert again.stdout.count("up to date") == 5, again.stdout
    page = (fresh.home / "report" / "index.html").read_text(encoding="utf-8")
    assert "Cost and time" in page and json.dumps(record["spent_usd"])[:4] in page
    without_a_teacher(fresh)
