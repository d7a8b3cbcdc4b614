"""The one interface to a model that answers chats, as teacher or as judge, and the registry of its backends.

A backend is one module with a class that takes (spec, devices, sampling) and answers chats; adding one is one file
and one line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from synthpost_dagster.devices import Devices
from synthpost_dagster.inference.generate import Chat, Completion
from synthpost_dagster.profiles import ModelSpec, Sampling
from synthpost_dagster.progress import Progress

_BACKENDS = {
    "transformers": "synthpost_dagster.generation.transformers_backend:TransformersChat",
}
HOLDS_DEVICE = frozenset({"transformers"})
"""Backends whose model lives in this process, so that their work stands in the pool `gpu`."""


class ChatModel(Protocol):
    """Answers chats.

    `identity` is everything that shapes a reply besides the chat; `name` is what tables call the model.
    """

    name: str
    identity: dict[str, Any]

    def answer(self, chats: list[Chat], seed: int, progress: Progress, what: str) -> list[Completion]:
        """One completion a chat, in order; `seed` sets this round apart from others."""


def chat_model(backend: str, spec: ModelSpec, sampling: Sampling, devices: Devices) -> ChatModel:
    """The chat model of a backend; its libraries are imported when it first answers."""
    module, name = _BACKENDS[backend].split(":")
    made: ChatModel = getattr(import_module(module), name)(spec, sampling, devices)
    return made
