"""Folders that are prepared once per test session, for all of its worker processes; tests copy them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def prepared(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """The session's folder of that name. The first process that needs it fills it while the others wait."""
    root = factory.getbasetemp()
    if root.name.startswith("popen-"):
        root = root.parent  # a worker of pytest-xdist has a folder of its own within the session's
    folder, mark = root / name, root / f"{name}.prepared"
    with FileLock(root / f"{name}.lock"):
        if not mark.exists():
            fill(folder)
            mark.touch()
    return folder
