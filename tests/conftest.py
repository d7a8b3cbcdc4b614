"""Fixtures of all tests: the packaged task, a small copy of it, and journals in both kinds of database."""

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
from tests.helpers.small_task import EditTask, edit_yaml, write_small_task
from tests.helpers.worker_folder import FOLDER

keep_quiet()
# Torch's threads spin while they wait, and there is a test process per core. Children inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Started in the background by a script, tests and their children would ignore interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """Removes the temporary files of this process."""
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Exempts what is loaded from the garbage collections that leases, trainings and engines start."""
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
    """A copy of the packaged task's 17,600 training prompts."""
    return _all_prompts.copy()


@pytest.fixture(scope="session")
def _small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory, "small_task", write_small_task)


@pytest.fixture(scope="session")
def _small(_small_folder: Path) -> Task:
    return load_task(str(_small_folder))


@pytest.fixture
def small_task(_small: Task, tmp_path: Path) -> Task:
    """The packaged task with four train and two holdout products, in a folder that the test may change."""
    folder = shutil.copytree(_small.folder, tmp_path / "task")
    return replace(_small, folder=folder, sources=dict(_small.sources))


@pytest.fixture
def edit_task(small_task: Task) -> EditTask:
    """Edits a YAML file of the small task in place and loads the task again: `edit_task("task.yaml", change)`."""

    def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Task:
        edit_yaml(small_task.folder / name, change)
        return load_task(str(small_task.folder))

    return edit


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """The context of a chat model: the CPU and an empty journal."""
    journal = Journal(f"sqlite:///{tmp_path / 'journal.sqlite'}")
    return Context(Devices("cpu"), journal, "test", None, lambda name: None)


@pytest.fixture(scope="session")
def _postgres() -> Iterator[str]:
    with postgres_cluster() as url:
        yield url


_SCHEMAS = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each supported kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.sqlite'}"
    import psycopg

    # A schema, since creating a database takes a hundred times as long.
    server, schema = f"{request.getfixturevalue('_postgres')}/postgres", f"journal_{next(_SCHEMAS)}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{server}?options=-csearch_path%3D{schema}"
