"""Specs of chat models behind the scripted server, and requests to them. Tables of replies are in `hosted_tables`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthpost_dagster.inference.generate import chat
from synthpost_dagster.llm.chat_models import Ask, ChatModel, Context, Work, ask_for, chat_model
from synthpost_dagster.llm.client import HostedModel
from synthpost_dagster.llm.journal import Journal, Reply
from synthpost_dagster.llm.model_check import Checked
from synthpost_dagster.profiles.models import HostedChat, HostedSampling, InProcessChat, Limits, Prices
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.runtime.progress import SILENT
from tests.helpers.chat_server import SERVED, ChatServer, reply_text

BACKENDS = ("openai", "groq")
KEY = "sk-canary-4f1d9c27b8"
KEY_NAME = "FAULTS_API_KEY"
PRICES = Prices(input=1_000.0, output=2_000.0)
"""Dollars per million tokens; high, so that budgets are round numbers."""

OPENED: list[Journal] = []
"""Journals that are closed at the end of the test."""


def hosted(server: ChatServer | str, backend: str = "openai", **changes: Any) -> HostedChat:
    """A model behind the server, or at an address; `changes` are fields of HostedChat, HostedSampling or Limits."""
    sampling: dict[str, Any] = {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 256, "seed": 3407}
    limits: dict[str, Any] = {
        "concurrency": 8,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "timeout_seconds": 20.0,
        "max_request_attempts": 3,
        "max_retry_wait_seconds": 60.0,
    }
    spec: dict[str, Any] = {
        "backend": backend,
        "endpoint": "scripted",
        "base_url": server if isinstance(server, str) else server.base_url(backend),
        "api_key": KEY_NAME,
        "model": SERVED,
        "revision": None,
        "max_tokens_as": "max_tokens",
        "structured_output": "none",
        "extra_body": {},
        "prices": None,
        "max_replies_per_row": 3,
    }
    for name, value in changes.items():
        next(fields for fields in (sampling, limits, spec) if name in fields)[name] = value
    return HostedChat(**spec, sampling=HostedSampling(**sampling), limits=Limits(**limits))


def context_of(journal: Path | str, budget: float | None = None, profile: str = "faults") -> Context:
    """A journal at a path or URL, and a key."""
    opened = Journal(f"sqlite:///{journal}" if isinstance(journal, Path) else journal)
    OPENED.append(opened)
    # Not the machine's own locks: tests do not wait for other processes here.
    locks = Path(str(opened.url).partition("///")[2]).parent / "locks"
    return Context(Devices("cpu", folder=locks), opened, profile, budget, {KEY_NAME: KEY}.get)


def prompts(count: int) -> list[str]:
    """Different prompts."""
    return [f"Write about number {number}." for number in range(count)]


def asks_of(model: ChatModel, texts: Sequence[str]) -> list[Ask]:
    """The first attempt at each prompt."""
    return [ask_for(model, chat(text), 0) for text in texts]


def answered(
    spec: HostedChat | InProcessChat, context: Context, texts: Sequence[str], purpose: str = "rows"
) -> list[Reply]:
    """The replies of a fresh model to the prompts."""
    model = chat_model(spec, context)
    return list(model.answers(asks_of(model, texts), Work(purpose, len(texts), SILENT)))


def expected(texts: Sequence[str]) -> list[str]:
    """What the server answers where nothing fails."""
    return [reply_text(text) for text in texts]


def texts_of(replies: Sequence[Reply]) -> list[str]:
    """Their texts."""
    return [reply.text for reply in replies]


def replies_in(url: str) -> int:
    """The number of replies in a journal."""
    return sum(int(record["replies"]) for record in context_of(url).journal.summary())


def checked(server: ChatServer | str, context: Context, backend: str, **changes: Any) -> Checked:
    """The result of checking a model before any request for rows."""
    model = chat_model(hosted(server, backend, **changes), context)
    assert isinstance(model, HostedModel)
    return model.check()
