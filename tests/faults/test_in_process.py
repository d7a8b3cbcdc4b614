"""Fault 9 and 12 for the teacher in this process: it is killed at its work, or waits for the device behind another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.llm import transformers_backend
from synthpost_dagster.profiles.models import InProcessChat
from synthpost_dagster.runtime.devices import Devices, Lease
from tests.helpers.chat_child import Job, child, run
from tests.helpers.hosted_models import answered, context_of, prompts, replies_in, texts_of

COUNT, BATCH = 40, 2


def embedded() -> InProcessChat:
    """The model that ships with the package, with short replies."""
    return InProcessChat.model_validate(
        {
            "backend": "transformers",
            "model": {
                "model": "embedded",
                "revision": None,
                "quantization": "none",
                "dtype": "float32",
                "memory_gib": 0.1,
            },
            "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 24, "batch_size": BATCH, "seed": 7},
            "max_replies_per_row": 3,
        }
    )


def batches_made(patch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are generated from now on."""
    made: list[int] = []
    generate = transformers_backend.generate_batch

    def counted(loaded: Any, chats: Any, *arguments: Any) -> Any:
        made.append(len(chats))
        return generate(loaded, chats, *arguments)

    patch.setattr(transformers_backend, "generate_batch", counted)
    return made


def test_fault_09_killed_teacher_in_process_makes_only_missing_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("texts", f"sqlite:///{tmp_path}/journal.sqlite", embedded().model_dump(), prompts=prompts(COUNT))
    made = batches_made(monkeypatch)
    undisturbed = run(job._replace(journal=f"sqlite:///{tmp_path}/other.sqlite"))
    assert made == [BATCH] * (COUNT // BATCH)
    journal = context_of(job.journal).journal
    with child(job, tmp_path) as killed:
        until = time.monotonic() + 300
        while not journal.summary():
            assert time.monotonic() < until, "it makes no replies"
            time.sleep(0.005)
        killed.kill()
    kept = replies_in(job.journal)
    assert 0 < kept < COUNT and kept % BATCH == 0
    made.clear()
    assert run(job) == undisturbed
    assert made == [BATCH] * ((COUNT - kept) // BATCH)
    assert replies_in(job.journal) == COUNT


class Crowded(Devices):
    """A device on which another process has just answered the same asks."""

    def __init__(self, folder: Path, other: Path) -> None:
        super().__init__("cpu", folder=folder)
        self.other = other

    @contextlib.contextmanager
    def lease(self, *arguments: Any, **named: Any) -> Iterator[Lease]:
        answered(embedded(), context_of(self.other), prompts(4))
        with super().lease(*arguments, **named) as lease:
            yield lease


def test_fault_12_replies_made_while_waiting_for_the_device_are_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal.sqlite"
    context = context_of(journal)._replace(devices=Crowded(tmp_path / "locks", journal))
    made = batches_made(monkeypatch)
    texts = texts_of(answered(embedded(), context, prompts(4)))
    assert made == [BATCH] * 2
    assert texts == texts_of(answered(embedded(), context_of(journal), prompts(4)))
