"""Worlds that many tests stand on: the packaged task, and a copy of it that is small enough to be exhausted."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.llm.chat_models import Context
from synthpost_dagster.llm.journal import Journal
from synthpost_dagster.rows.prompts import training_prompts
from synthpost_dagster.runtime.devices import Devices
from synthpost_dagster.settings import keep_quiet
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.task import Task
from tests.helpers.postgres_cluster import postgres_cluster
from tests.helpers.prepared import prepared
from tests.helpers.small_task import edit_yaml, write_small_task
from tests.helpers.worker_folder import FOLDER

keep_quiet()
# Torch's threads spin while they wait, and the tests have a process for each core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A script that starts the tests in the background has them ignore interrupts, and their children inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]


def pytest_unconfigure() -> None:
    """No temporary file of this process is needed any more."""
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Leases, trainings and engines collect garbage; what was loaded before is not looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def sales_posts() -> Task:
    """The packaged task."""
    return load_task("sales_posts")


@pytest.fixture(scope="session")
def _all_prompts(sales_posts: Task) -> pd.DataFrame:
    return training_prompts(sales_posts)


@pytest.fixture
def all_prompts(_all_prompts: pd.DataFrame) -> pd.DataFrame:
    """The packaged task's 17,600 training prompts, this test's own copy."""
    return _all_prompts.copy()


@pytest.fixture(scope="session")
def _small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory, "small_task", write_small_task)


@pytest.fixture(scope="session")
def _small(_small_folder: Path) -> Task:
    return load_task(str(_small_folder))


@pytest.fixture
def small_task(_small: Task, tmp_path: Path) -> Task:
    """The packaged task with a catalog of four train and two holdout products, in a folder of this test's own."""
    folder = shutil.copytree(_small.folder, tmp_path / "task")
    return replace(_small, folder=folder, sources=dict(_small.sources))


@pytest.fixture
def edit_task(small_task: Task) -> EditTask:
    """Changes a YAML file of the small task in place and loads the task again: `edit_task("task.yaml", change)`."""

    def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Task:
        edit_yaml(small_task.folder / name, change)
        return load_task(str(small_task.folder))

    return edit


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """What backends work with: the CPU, and a journal of this test's own."""
    journal = Journal(f"sqlite:///{tmp_path / 'journal.sqlite'}")
    return Context(Devices("cpu"), journal, "test", None, lambda name: None)


@pytest.fixture(scope="session")
def _postgres() -> Iterator[str]:
    with postgres_cluster() as url:
        yield url


_SCHEMAS = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of this test's own, of either kind that the journal knows."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.sqlite'}"
    import psycopg

    # A schema: a database of its own takes a hundred times as long to make.
    server, schema = f"{request.getfixturevalue('_postgres')}/postgres", f"journal_{next(_SCHEMAS)}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{server}?options=-csearch_path%3D{schema}"
