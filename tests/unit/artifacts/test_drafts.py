"""Drafts are removed when their makers end, or at the next run where these were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synthpost_dagster.artifacts.drafts import MAX_SECONDS_WITHOUT_HEARTBEAT, draft_folder, remove_abandoned

MAKER = """
import sys, pathlib
from synthpost_dagster.artifacts.drafts import draft_folder
with draft_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half.parquet").write_text("half")
    print("there", flush=True)
    sys.stdin.read()
"""


def drafts(home: Path) -> list[Path]:
    return list((home / "tmp").iterdir())


def test_draft_of_a_failed_process_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broke"), draft_folder(tmp_path) as folder:
        (folder / "half.parquet").touch()
        raise ValueError("broke")
    assert drafts(tmp_path) == []


def test_draft_of_a_killed_process_is_removed_and_of_a_live_one_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "there\n"
        with draft_folder(tmp_path) as ours:
            assert remove_abandoned(tmp_path) == 0
            assert len(drafts(tmp_path)) == 2
            os.kill(maker.pid, signal.SIGKILL)
            maker.wait(timeout=60)
            assert remove_abandoned(tmp_path) == 1
            assert drafts(tmp_path) == [ours.parent]


def test_draft_without_a_live_process_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new, foreign = (tmp_path / "tmp" / name for name in ("tmpabcdefgh", "tmpabcdefg1", "notes"))
    for folder in (old, new, foreign):
        folder.mkdir(parents=True)
        at = folder.stat().st_mtime - MAX_SECONDS_WITHOUT_HEARTBEAT - 60
        os.utime(folder, (at, at) if folder != new else None)
    assert remove_abandoned(tmp_path) == 1
    assert set(drafts(tmp_path)) == {new, foreign}


def test_a_link_in_place_of_the_drafts_folder_is_not_followed(tmp_path: Path) -> None:
    foreign = tmp_path / "elsewhere" / "tmpabcdefgh"
    foreign.mkdir(parents=True)
    os.utime(foreign, (0, 0))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tmp").symlink_to(foreign.parent)
    assert remove_abandoned(tmp_path / "home") == 0
    assert foreign.is_dir()
