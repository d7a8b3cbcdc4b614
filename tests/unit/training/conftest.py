"""How the tests of tuning run."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _little_to_collect() -> Iterator[None]:
    """A training collects garbage at its end; the libraries' objects are not looked through each time."""
    for name in ("torch", "datasets", "peft", "trl", "bitsandbytes"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
