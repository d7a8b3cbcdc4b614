"""The one interface to a model that answers chats, as teacher or as judge, and the registry of its backends.

A backend is one module with a class that takes (spec, context, schema); adding one is one file, one line here, and its
name in `profiles.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.inference.templates import Chat
from synthpost_dagster.llm.journal import Journal, Reply
from synthpost_dagster.profiles.models import HostedChat, InProcessChat
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.runtime.progress import Progress

_BACKENDS = {
    "transformers": "synthpost_dagster.llm.transformers_backend:TransformersChat",
    "openai": "synthpost_dagster.llm.client:HostedModel",
    "groq": "synthpost_dagster.llm.client:HostedModel",
}
CHARACTERS_PER_TOKEN = 4.0
"""For estimates, if an endpoint counts no tokens."""
HOLDS_DEVICE = frozenset({"transformers"})
"""Backends whose model is in this process, so that their work is in the pool `gpu`."""


class Context(NamedTuple):
    """What backends need: devices, journal, the profile that pays, its budget, and the API keys by name."""

    devices: Devices
    journal: Journal
    profile: str
    budget: float | None
    secret: Callable[[str], str | None]


class Ask(NamedTuple):
    """A chat to answer, and the fingerprint of everything that shapes the reply."""

    key: str
    chat: Chat

    @property
    def characters(self) -> int:
        """Length of the chat's texts."""
        return sum(len(turn["content"]) for turn in self.chat)


class Work(NamedTuple):
    """A series of asks: its purpose in the journal, its number, and its progress."""

    purpose: str
    total: int
    progress: Progress


@dataclass
class Tally:
    """Counts of a model's replies: found in the journal, requested, and their cost and time."""

    known: int = 0
    asked: int = 0
    tries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    lost_usd: float = 0.0
    seconds: float = 0.0
    served_models: set[str] = field(default_factory=set)

    def add(self, reply: Reply) -> None:
        """Counts a reply that was requested."""
        self.asked += 1
        self.tries += reply.tries
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cost_usd += reply.cost_usd
        self.lost_usd += reply.lost_usd
        self.served_models.add(reply.served_model)

    def merge(self, other: Tally) -> None:
        """Adds another model's tally."""
        for name in (entry.name for entry in fields(self) if entry.name != "served_models"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.served_models |= other.served_models

    @property
    def facts(self) -> dict[str, Any]:
        """The tally for an artifact's metadata."""
        return {
            "asked_now": self.asked,
            "found_in_journal": self.known,
            "tries": self.tries,
            "prompt_tokens_asked": self.prompt_tokens,
            "completion_tokens_asked": self.completion_tokens,
            "cost_usd": round(self.cost_usd, 6),
            "lost_usd": round(self.lost_usd, 6),
            "ask_seconds": round(self.seconds, 2),
            "rows_per_second": round(self.asked / self.seconds, 2) if self.seconds else 0.0,
            "served_models": sorted(self.served_models),
        }


class ChatModel(Protocol):
    """Answers chats. `identity` is what shapes a reply besides chat and attempt; `name` is used in tables."""

    name: str
    identity: dict[str, Any]
    tally: Tally

    def answers(self, asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        """One reply per ask, in order, each journaled before it is handed out; replies in the journal are reused.

        A caller that does not want all of them closes the generator.
        """


def ask_for(model: ChatModel, chat: Chat, attempt: int) -> Ask:
    """The ask of a chat; each attempt, from 0, has its own reply. Half a surrogate pair becomes a question mark."""
    chat = [{name: text.encode("utf-8", "replace").decode() for name, text in turn.items()} for turn in chat]
    return Ask(fingerprint({"model": model.identity, "chat": chat, "attempt": attempt}), chat)


def chat_model(spec: InProcessChat | HostedChat, context: Context, schema: dict[str, Any] | None = None) -> ChatModel:
    """The chat model of a spec; its libraries are imported when it first answers.

    `schema` is the JSON schema for replies, sent if the profile's `structured_output` says so.
    """
    module, name = _BACKENDS[spec.backend].split(":")
    made: ChatModel = getattr(import_module(module), name)(spec, context, schema)
    return made
