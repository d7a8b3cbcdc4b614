"""Chats answered by a model in this process, under the device lease."""

from __future__ import annotations

from typing import Any

from synthpost_dagster.devices import Devices
from synthpost_dagster.inference.generate import Chat, Completion, generate
from synthpost_dagster.inference.models import identity, load
from synthpost_dagster.profiles import ModelSpec, Sampling
from synthpost_dagster.progress import Progress


class TransformersChat:
    """A model loaded with transformers for as long as one call of `answer` lasts."""

    def __init__(self, spec: ModelSpec, sampling: Sampling, devices: Devices) -> None:
        self.spec, self.sampling, self.devices = spec, sampling, devices
        self.name = f"transformers/{spec.model}"
        self.identity: dict[str, Any] = {
            **identity(spec),
            "sampling": sampling.model_dump(exclude={"batch_size"}),
        }

    def answer(self, chats: list[Chat], seed: int, progress: Progress, what: str) -> list[Completion]:
        """One completion a chat, in order."""
        sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + seed})
        with self.devices.lease(self.spec.memory_gib, waiting=progress.note) as lease:
            return generate(load(self.spec, lease.device.name), chats, sampling, progress, what)
