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
    "openai": "synthpost_dagster.llm.openai_backend:OpenAIChat",
    "groq": "synthpost_dagster.llm.groq_backend:GroqChat",
}
HOLDS_DEVICE = frozenset({"transformers"})
"""Backends whose model lives in this process, so that their work stands in the pool `gpu`."""


class Context(NamedTuple):
    """What backends work with: devices, the journal, who pays and how much at most, and how a key is looked up."""

    devices: Devices
    journal: Journal
    profile: str
    budget: float | None
    secret: Callable[[str], str | None]


class Ask(NamedTuple):
    """A chat to be answered, and the key of everything that shapes the reply."""

    key: str
    chat: Chat

    @property
    def characters(self) -> int:
        """Length of the chat's texts."""
        return sum(len(turn["content"]) for turn in self.chat)


class Work(NamedTuple):
    """What a series of asks is for (`purpose` stands in the journal), how many they are, and who hears of them."""

    purpose: str
    total: int
    progress: Progress


@dataclass
class Tally:
    """What a model's answers came to so far: replies found in the journal, replies asked for, and what these took."""

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
        """Counts a reply that was asked for."""
        self.asked += 1
        self.tries += reply.tries
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cost_usd += reply.cost_usd
        self.lost_usd += reply.lost_usd
        self.served_models.add(reply.served_model)

    def merge(self, other: Tally) -> None:
        """Counts what another model's answers came to."""
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
    """Answers chats.

    `identity` is everything that shapes a reply besides the chat and the attempt; `name` is what tables call the model.
    """

    name: str
    identity: dict[str, Any]
    tally: Tally

    def answers(self, asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        """One reply an ask, in order, each in the journal before it is handed out; what is there is not asked for.

        Whoever does not want all of them closes the generator.
        """


def ask_for(model: ChatModel, chat: Chat, attempt: int) -> Ask:
    """The ask of a chat; attempts, from 0, are replies of their own. Half a surrogate pair becomes a question mark."""
    chat = [{name: text.encode("utf-8", "replace").decode() for name, text in turn.items()} for turn in chat]
    return Ask(fingerprint({"model": model.identity, "chat": chat, "attempt": attempt}), chat)


def chat_model(spec: InProcessChat | HostedChat, context: Context, schema: dict[str, Any] | None = None) -> ChatModel:
    """The chat model of a spec; its libraries are imported when it first answers.

    `schema` is the JSON schema that replies should follow, where the endpoint is said to heed one.
    """
    module, name = _BACKENDS[spec.backend].split(":")
    made: ChatModel = getattr(import_module(module), name)(spec, context, schema)
    return made
