"""Fixtures of the fault tests: one scripted server, a journal of each test's own, and an end to what hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from synthpost_dagster.llm import limits
from synthpost_dagster.llm.chat_models import Context
from tests.helpers.chat_server import ChatServer, chat_server
from tests.helpers.hosted_models import BACKENDS, OPENED, context_of

# Children inherit it: torch's threads spin while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MOST_SECONDS = 300


@pytest.fixture(autouse=True)
def _no_hang(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that hangs fails, and the others run; a module may allow its tests another time."""
    most = getattr(request.module, "MOST_SECONDS", MOST_SECONDS)

    def end(number: int, frame: FrameType | None) -> None:
        signal.alarm(10)
        pytest.fail(f"hangs: not over after {most} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(most)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """A connection that is collected while it is open is a warning, and warnings are errors."""
    yield
    for journal in OPENED:
        if engine := vars(journal).get("_engine"):
            engine.dispose()
    OPENED.clear()


@pytest.fixture(autouse=True)
def _fresh_endpoints() -> None:
    """What other tests learned of how hard the endpoint may be pressed is forgotten."""
    limits._PRESSURES.clear()


@pytest.fixture(scope="session")
def _server() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def server(_server: ChatServer) -> ChatServer:
    """The scripted server, with nothing scripted and nothing logged."""
    _server.script()
    return _server


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A journal of this test's own, and a key."""
    return context_of(tmp_path / "journal.sqlite")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Either SDK."""
    return str(request.param)


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries that nobody asked for are short."""
    monkeypatch.setattr(limits, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(limits, "LONGEST_BACKOFF", 0.05)
