"""Fixtures of the fault tests: one scripted server, a journal per test, and a time limit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from synthpost_dagster.llm import rate_limits, retries
from synthpost_dagster.llm.chat_models import Context
from tests.helpers.chat_server import ChatServer, chat_server
from tests.helpers.hosted_models import BACKENDS, OPENED, context_of

MAX_SECONDS = 300


@pytest.fixture(autouse=True)
def _no_hang(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that hangs fails, and the others run; a module may set its own MAX_SECONDS."""
    limit = getattr(request.module, "MAX_SECONDS", MAX_SECONDS)

    def end(number: int, frame: FrameType | None) -> None:
        signal.alarm(10)
        pytest.fail(f"hangs: still running after {limit} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(limit)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Closes the journals of a test: collecting an open connection is a warning, and warnings are errors."""
    yield
    for journal in OPENED:
        if engine := vars(journal).get("_engine"):
            engine.dispose()
    OPENED.clear()


@pytest.fixture(autouse=True)
def _fresh_endpoints() -> None:
    """Clears the rate limits that other tests learned of the endpoint."""
    rate_limits._SHARED.clear()


@pytest.fixture(scope="session")
def _server() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def server(_server: ChatServer) -> ChatServer:
    """The scripted server, with no rules and an empty log."""
    _server.script()
    return _server


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """An empty journal, and a key."""
    return context_of(tmp_path / "journal.sqlite")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each SDK in turn."""
    return str(request.param)


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries that nobody asked for are short."""
    monkeypatch.setattr(retries, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(retries, "MAX_BACKOFF", 0.05)
