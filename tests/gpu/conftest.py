"""The tests that need an NVIDIA GPU: `make gpu-test`. They are skipped without one.

On a bare machine without the development tools: `python3 -m pytest tests/gpu -m gpu --confcutdir=tests/gpu`, which
imports no other conftest. Warnings are no errors here: the driver and the libraries are those of the machine.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from synthpost_dagster.runtime.devices import Device, Devices
from synthpost_dagster.settings import keep_quiet
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.task import Task

keep_quiet()
# One GPU, also for the processes that tests start: with two, none would wait for another.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests in this folder without a GPU."""
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    is_skipped = bool(own) and not _has_gpu()
    for item in own:
        item.add_marker(pytest.mark.filterwarnings("default"))
        if is_skipped:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


@pytest.fixture(scope="session")
def sales_posts() -> Task:
    """The packaged task."""
    return load_task("sales_posts")


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The GPU with most free memory."""
    return Devices("cuda").candidates()[0]


@pytest.fixture(autouse=True)
def _all_memory(gpu: Device) -> Iterator[None]:
    """Each test begins with all of the GPU's memory and frees it."""
    import torch

    yield
    torch.cuda.set_per_process_memory_fraction(1.0, gpu.name)
    gc.collect()
    torch.cuda.empty_cache()
