"""The registry of trainers: a new one is a module, a line here, and its name in the profile's `training.trainer`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synthpost_dagster.training.sft import Tuner

_TRAINERS = {
    "trl": "synthpost_dagster.training.sft:Tuner",
    "unsloth": "synthpost_dagster.training.unsloth_sft:UnslothTuner",
}
APART = frozenset({"unsloth"})
"""Trainers that patch libraries for the whole process, and therefore run in a process of their own."""


def trainer(name: str) -> type[Tuner]:
    """The trainer of that name; imports its libraries."""
    module, kind = _TRAINERS[name].split(":")
    found: type[Tuner] = getattr(import_module(module), kind)
    return found
