"""A study that is small enough to run whole in a test: two companies, few rows, and the packaged wording.

Templates, post types, tones and criteria are the packaged ones, so that the embedded model can be used. Tests change a
study in its YAML files, as a user does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.cell import Cell
from synthpost_dagster.console import Terminal
from synthpost_dagster.profiles import FOLDER as PROFILES
from synthpost_dagster.settings import Settings, read_settings
from synthpost_dagster.stages.opening import open_study
from synthpost_dagster.stages.study import Study
from tests.helpers.small_task import copy_task, edit_yaml

if TYPE_CHECKING:
    from dagster import DagsterInstance

BIN = Path(sys.executable).parent
SYNTHPOST = BIN / "synthpost"
SIZES = (8, 16)
STEPS: tuple[int | str, ...] = (3, "1-epoch")
CELLS = ("8|3", "8|1-epoch", "16|3", "16|1-epoch")
WHOLE = (
    "catalog",
    "prompts",
    "evaluation_prompts",
    "synthetic_rows",
    "baseline_predictions",
    "control_predictions",
    "control_verdicts",
    "ratio_report",
)
"""Assets without partitions."""
BY_CELL = ("adapters", "predictions", "verdicts")


class Made(NamedTuple):
    """A run, as tests compare it."""

    job: str
    partition: str | None
    status: str


def done(job: str, partition: str | None = None) -> Made:
    """A run that succeeded."""
    return Made(job, partition, "SUCCESS")


@dataclass(frozen=True)
class SmallStudy:
    """A folder with a task, a profile and a home."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def task(self) -> Path:
        return self.root / "task"

    @property
    def profile(self) -> Path:
        return self.root / "profile.yaml"

    @property
    def settings(self) -> Settings:
        return read_settings(str(self.home), str(self.task), str(self.profile))

    def open(self) -> Study:
        """The study as its files now define it."""
        return open_study(self.settings)

    def instance(self) -> DagsterInstance:
        """The Dagster instance of the home; a context."""
        from dagster import DagsterInstance

        return DagsterInstance.from_config(str(self.home / "dagster"))

    def environment(self, **more: str) -> dict[str, str]:
        """For child processes: the environment of this process, with this study as the settings."""
        study = {
            "SYNTHPOST_HOME": str(self.home),
            "SYNTHPOST_TASK": str(self.task),
            "SYNTHPOST_PROFILE": str(self.profile),
        }
        return {**os.environ, **study, **more}

    def command(self, *arguments: str, timeout: float = 600, **more: str) -> subprocess.CompletedProcess[str]:
        """`synthpost …` as people run it."""
        return subprocess.run(
            [str(SYNTHPOST), *arguments],
            env=self.environment(**more),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def call(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """As `command`, in this process, which saves the time of importing libraries again."""
        from synthpost_dagster.cli import entry

        streams = [io.BytesIO(), io.BytesIO()]
        output, errors = (io.TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in streams)
        with (
            _as_process(["synthpost", *arguments], self.environment(**more), self.root),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            try:
                entry()
                status = 0
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 0
        texts = [stream.getvalue().decode() for stream in streams]
        return subprocess.CompletedProcess(list(arguments), status, *texts)

    def sweep(self, *cells: str) -> list[Made]:
        """Brings cells up to date through the driver, in this process; the runs it started, oldest first."""
        from synthpost_dagster.orchestration.driver import open_driver

        before = self.run_ids()
        with open_driver(self.settings, Terminal()) as sweep:
            sweep.run([Cell.parse(cell) for cell in cells])
        return self.runs(without=before)

    def run_ids(self) -> set[str]:
        """Ids of all runs."""
        if not self.home.exists():
            return set()
        with self.instance() as instance:
            return {run.run_id for run in instance.get_runs()}

    def runs(self, without: Sequence[str] | set[str] = ()) -> list[Made]:
        """All runs, oldest first, without those known before."""
        with self.instance() as instance:
            found = [run for run in instance.get_runs() if run.run_id not in set(without)]
            return [Made(run.job_name, run.tags.get("dagster/partition"), run.status.value) for run in found[::-1]]

    def recorded(self, asset: str, partition: str = "") -> str | None:
        """The fingerprint in the metadata of the latest materialization."""
        from dagster import AssetKey, AssetRecordsFilter

        with self.instance() as instance:
            wanted = AssetRecordsFilter(AssetKey(asset), asset_partitions=[partition] if partition else None)
            records = instance.fetch_materializations(wanted, limit=1).records
        if not records or records[0].asset_materialization is None:
            return None
        return str(records[0].asset_materialization.metadata["fingerprint"].value)

    def snapshot(self, cells: Sequence[str] = CELLS) -> dict[str, str | None]:
        """Asset and partition → fingerprint of the latest materialization."""
        sizes = sorted({cell.split("|")[0] for cell in cells}, key=int)
        found = {asset: self.recorded(asset) for asset in WHOLE}
        found |= {f"data_subsets {size}": self.recorded("data_subsets", size) for size in sizes}
        return found | {f"{asset} {cell}": self.recorded(asset, cell) for asset in BY_CELL for cell in cells}

    def trainings(self) -> list[Path]:
        """Folders of checkpoints, of trainings that run or were stopped."""
        return list((self.home / "checkpoints").glob("*"))

    def manifests(self) -> list[Path]:
        """Every manifest in the storage."""
        return sorted((self.home / "storage").glob("*/*/*/manifest.json"))

    def broken_artifacts(self) -> list[str]:
        """Folders whose manifest lists a file that is missing or has another size or hash."""
        broken = []
        for path in self.manifests():
            for name, entry in json.loads(path.read_text())["files"].items():
                file = path.parent / name
                if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
                    broken.append(str(file))
        return broken

    def choose_learning_rate(self, rate: float, **sweep: Any) -> None:
        """Changes the profile, so that every adapter has to be made again; `sweep` are keys of that section."""

        def change(profile: dict[str, Any]) -> None:
            profile["training"]["learning_rate"] = rate
            profile["sweep"].update(sweep)

        edit_yaml(self.profile, change)

    def remove(self, *places: str) -> None:
        """Removes artifacts: all `verdicts`, or `verdicts/8_3` of one partition."""
        for place in places:
            shutil.rmtree(self.home / "storage" / place)

    def copy_to(self, root: Path) -> SmallStudy:
        """The same study in another folder, with all its artifacts."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return SmallStudy(root)


@contextlib.contextmanager
def _as_process(arguments: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Sets arguments, environment and folder of this process, and restores them afterwards."""
    before = dict(os.environ), sys.argv, sys.unraisablehook, Path.cwd()
    try:
        os.environ.update(environment)
        sys.argv = arguments
        os.chdir(folder)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before[0])
        _, sys.argv, sys.unraisablehook, back = before
        os.chdir(back)


class Offline:
    """A context in which this process can connect to nothing; `refused` holds the arguments of each attempt."""

    def __init__(self) -> None:
        self.refused: list[tuple[Any, ...]] = []
        self._is_on = False
        sys.addaudithook(self._refuse)

    def __enter__(self) -> Offline:
        self._is_on = True
        return self

    def __exit__(self, *error: object) -> None:
        self._is_on = False

    def _refuse(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_connection = event == "socket.connect" and not isinstance(arguments[1], str | bytes)
        if self._is_on and (is_connection or event == "socket.getaddrinfo"):
            self.refused.append(arguments)
            raise ConnectionRefusedError(f"no network in this test: {arguments}")


class Whole(NamedTuple):
    """A study with all its artifacts, and the runs that made them.

    `seconds`: wall time, without the time in which the kernel let other processes use the core. `refused`: connections
    that it tried to make.
    """

    study: SmallStudy
    runs: list[Made]
    seconds: float
    refused: list[str]
    offline: Offline


def write_small_study(root: Path) -> SmallStudy:
    """Task and profile of the small study below `root`; no home yet."""
    study = SmallStudy(root)
    root.mkdir(parents=True, exist_ok=True)
    sweep = {"data_sizes": [*SIZES, 24, 330], "steps": list(STEPS)}
    copy_task(study.task, 3, 1, sweep=sweep, evaluation={"prompts": 11})
    shutil.copyfile(PROFILES / "tiny.yaml", study.profile)

    def cover(profile: dict[str, Any]) -> None:
        profile["sweep"] = {"data_sizes": list(SIZES), "steps": list(STEPS), "more_seeds": []}
        profile["evaluation_prompts"] = None

    edit_yaml(study.profile, cover)
    return study
