"""Scenarios on a full disk: each runs in a process whose small disk no other process sees.

`on_a_small_disk` runs one of them in a mount namespace, on a tmpfs of a few megabytes, and returns its results. It
needs root or a user namespace. `python -m tests.helpers.full_disk SCENARIO DISK SPEC` prints them as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.llm import client
from synthpost_dagster.llm.chat_models import Work, chat_model
from synthpost_dagster.profiles.models import HostedChat
from synthpost_dagster.runtime.progress import Event, Progress
from tests.helpers.children import command, environment
from tests.helpers.hosted_models import OPENED, answered, asks_of, context_of, prompts, texts_of

MEGABYTE = 1024 * 1024
BUDGET = 1_000.0
REPLIES = 60


def on_a_small_disk(scenario: str, megabytes: int, folder: Path, spec: HostedChat | None = None) -> dict[str, Any]:
    """The results of a scenario. Skips where a mount needs rights that this user lacks; in CI it fails instead."""
    disk = folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={megabytes}m none "$1" && shift && exec "$@"'
    scenario_command = command("full_disk", scenario, disk, spec.model_dump_json() if spec else "")
    for isolated in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if _may_mount(isolated, disk):
            done = subprocess.run(
                [*isolated, "sh", "-c", mount, "sh", str(disk), *scenario_command],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return dict(json.loads(done.stdout))
    message = "no small disk can be mounted here, neither as root nor in a user namespace"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _may_mount(isolated: list[str], folder: Path) -> bool:
    if shutil.which(isolated[0]) is None:
        return False
    mount = [*isolated, "mount", "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def journal(disk: Path, spec: HostedChat) -> dict[str, Any]:
    """Sends requests until the disk is full, frees space, and sends the rest."""
    vars(client)["AWAY_SECONDS"] = (0.1,)
    ballast = fill(disk / "ballast", 5 * MEGABYTE)
    path = disk / "journal.sqlite"
    error = error_of(lambda: answered(spec, context_of(path, BUDGET), prompts(REPLIES)))
    free = shutil.disk_usage(disk).free
    left = context_of(path).journal.summary()
    ballast.unlink()
    texts = texts_of(answered(spec, context_of(path, BUDGET), prompts(REPLIES)))
    spending = context_of(path).journal.spending()
    return {
        "error": error,
        "free": free,
        "left": left[0]["replies"] if left else 0,
        "texts": texts,
        "spent": sum(record["spent_usd"] + record["unsettled_usd"] for record in spending),
    }


def room(disk: Path, spec: HostedChat) -> dict[str, Any]:
    """Sends requests until the disk is full; space is freed while the run waits."""
    ballast = fill(disk / "ballast", 5 * MEGABYTE)
    notes: list[str] = []

    def note(event: Event) -> None:
        if "full" in event.what:
            notes.append(event.what)
            ballast.unlink(missing_ok=True)

    model = chat_model(spec, context_of(disk / "journal.sqlite"))
    replies = model.answers(asks_of(model, prompts(REPLIES)), Work("rows", REPLIES, Progress(note)))
    return {"texts": texts_of(list(replies)), "notes": notes}


def no_journal(disk: Path, spec: HostedChat) -> dict[str, Any]:
    """Sends requests where not even an empty journal fits, then again with space freed."""
    ballast = fill(disk / "ballast", shutil.disk_usage(disk).free)
    error = error_of(lambda: answered(spec, context_of(disk / "journal.sqlite"), prompts(3)))
    ballast.unlink()
    return {"error": error, "texts": texts_of(answered(spec, context_of(disk / "journal.sqlite"), prompts(3)))}


def recovery(disk: Path, spec: HostedChat) -> dict[str, Any]:
    """Opens a damaged journal where its recovery does not fit, then frees space and sends the requests again."""
    path = disk / "journal.sqlite"
    answered(spec, context_of(path), prompts(REPLIES))
    vars(OPENED[-1])["_engine"].dispose()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"no page" * 999 + content[len(content) // 2 + 6_993 :])
    ballast = fill(disk / "ballast", shutil.disk_usage(disk).free - 300_000)
    error = error_of(context_of(path).journal.summary)
    left = sorted(file.name for file in disk.glob("journal.sqlite*"))
    ballast.unlink()
    return {"error": error, "left": left, "texts": texts_of(answered(spec, context_of(path), prompts(REPLIES)))}


def table(disk: Path) -> dict[str, Any]:
    """Publishes a small table, then a large one that does not fit, then the large one with space freed."""
    import numpy as np
    import pandas as pd

    from synthpost_dagster.artifacts.manifest import Plan
    from synthpost_dagster.artifacts.store import ArtifactStore

    store = ArtifactStore(disk / "storage", disk / "home")
    small = pd.DataFrame({"id": ["a", "b"], "wins": [3, 4]})
    large = pd.DataFrame({"noise": np.random.default_rng(7).random(150_000)})
    old, new = Plan("verdicts", "88|50", {"rows": 2}), Plan("verdicts", "88|50", {"rows": 150_000})
    manifest = store.reuse_or_make(old, lambda draft: draft.table("verdicts", small)).manifest
    ballast = fill(disk / "ballast", MEGABYTE)
    error = error_of(lambda: store.reuse_or_make(new, lambda draft: draft.table("verdicts", large)))
    found = store.find(old.asset, old.partition, old.fingerprint)
    seen = {
        "error": error,
        "old": found == manifest and store.read_table(manifest).equals(small),
        "new": store.find(new.asset, new.partition, new.fingerprint) is not None,
        "left": [path.name for path in disk.rglob("*") if path.is_file() and path.stat().st_size > 100_000],
    }
    ballast.unlink()
    again = store.reuse_or_make(new, lambda draft: draft.table("verdicts", large)).manifest
    return {**seen, "again": store.read_table(again).equals(large)}


def fill(path: Path, size: int) -> Path:
    """A file of that many bytes, or of all that fit."""
    with contextlib.suppress(OSError):
        path.write_bytes(bytes(size))
    return path


def error_of(work: Callable[[], object]) -> str:
    """The error that ended the work, or nothing; a defect of the package keeps its traceback."""
    try:
        work()
    except SynthpostError as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    name, place, spec_json = sys.argv[1:]
    scenarios: dict[str, Any] = {work.__name__: work for work in (journal, no_journal, recovery, room, table)}
    specs = [HostedChat.model_validate_json(spec_json)] if spec_json else []
    sys.stdout.write(json.dumps(scenarios[name](Path(place), *specs)))
