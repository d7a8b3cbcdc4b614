"""What happens on a disk that is full: scenarios in a process whose small disk nobody else sees.

`on_a_small_disk` runs one of them in a mount namespace of its own, on a tmpfs of a few megabytes; it prints what came
of it as JSON. As root no more is needed, else a user namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.llm import hosted
from synthpost_dagster.llm.chat_models import Work, chat_model
from synthpost_dagster.profiles.models import HostedChat
from synthpost_dagster.runtime.progress import Event, Progress
from tests.helpers.hosted_world import OPENED, answered, asks_of, context_of, prompts, texts_of

MEGABYTE = 1024 * 1024
BUDGET = 1_000.0
REPLIES = 60


def on_a_small_disk(scenario: str, megabytes: int, folder: Path, spec: HostedChat | None = None) -> dict[str, Any]:
    """What the scenario prints. Skips where neither root nor a user namespace may mount; in CI it fails."""
    disk = folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={megabytes}m none "$1" && exec "$2" "$3" "$4" "$1" "$5"'
    arguments = [disk, sys.executable, Path(__file__).resolve(), scenario, spec.model_dump_json() if spec else ""]
    for isolated in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if _may_mount(isolated, disk):
            command = [*isolated, "sh", "-c", mount, "sh", *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr
            return dict(json.loads(done.stdout))
    message = "no small disk can be mounted here, neither as root nor in a user namespace"
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


def _may_mount(isolated: list[str], folder: Path) -> bool:
    if shutil.which(isolated[0]) is None:
        return False
    command = [*isolated, "mount", "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def journal(disk: Path, spec: HostedChat) -> dict[str, Any]:
    """Asks until the disk is full, looks at what is there, frees space, and asks on."""
    hosted.AWAY_SECONDS = (0.1,)
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
    """Asks until the disk is full, and someone frees space while the run goes on."""
    ballast = fill(disk / "ballast", 5 * MEGABYTE)
    notes: list[str] = []

    def heard(event: Event) -> None:
        if "full" in event.what:
            notes.append(event.what)
            ballast.unlink(missing_ok=True)

    model = chat_model(spec, context_of(disk / "journal.sqlite"))
    replies = model.answers(asks_of(model, prompts(REPLIES)), Work("rows", REPLIES, Progress(heard)))
    return {"texts": texts_of(list(replies)), "notes": notes}


def no_journal(disk: Path, spec: HostedChat) -> dict[str, Any]:
    """Asks where there is no room for even an empty journal."""
    ballast = fill(disk / "ballast", shutil.disk_usage(disk).free)
    error = error_of(lambda: answered(spec, context_of(disk / "journal.sqlite"), prompts(3)))
    ballast.unlink()
    return {"error": error, "texts": texts_of(answered(spec, context_of(disk / "journal.sqlite"), prompts(3)))}


def mend(disk: Path, spec: HostedChat) -> dict[str, Any]:
    """Opens a damaged journal where there is no room to mend it, then frees space and asks on."""
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
    """A file of so many bytes, or as many as fit."""
    with contextlib.suppress(OSError):
        path.write_bytes(bytes(size))
    return path


def error_of(work: Any) -> str:
    """The error that ended the work; a defect of the package keeps its traceback."""
    try:
        work()
    except SynthpostError as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    name, place, said = sys.argv[1:]
    scenarios: dict[str, Any] = {work.__name__: work for work in (journal, no_journal, mend, room, table)}
    specs = [HostedChat.model_validate_json(said)] if said else []
    sys.stdout.write(json.dumps(scenarios[name](Path(place), *specs)))
