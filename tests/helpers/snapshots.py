"""Texts that users read, kept whole in `tests/snapshots`: the help, errors of a study's files, and the page.

Other tests assert values. After an intended change, `python -m tests.helpers.snapshots` writes the files again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from click.testing import CliRunner
from markupsafe import Markup

from synthpost_dagster.cli import main
from synthpost_dagster.errors import SynthpostError
from synthpost_dagster.profiles import load_task_and_profile
from synthpost_dagster.report.page import render_page
from tests.helpers.reports import Reader, report
from tests.helpers.small_task import edit_yaml, write_small_task, write_yaml

FOLDER = Path(__file__).parents[1] / "snapshots"
PROFILE = {"extends": "tiny", "name": "mine", "sweep": {"data_sizes": [8], "steps": [2]}}


def help_text() -> str:
    """The help of `synthpost` and of each of its commands."""
    runner = CliRunner()
    invoked = [[], *([name] for name in main.list_commands(click.Context(main)))]
    parts = [
        runner.invoke(main, [*arguments, "--help"], prog_name="synthpost", terminal_width=100) for arguments in invoked
    ]
    assert all(part.exit_code == 0 for part in parts)
    return "\n".join(part.output for part in parts)


def _set(*keys: Any, value: object) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def _mistakes() -> Iterator[tuple[str, str, Callable[[Any], object]]]:
    """What is wrong, the file, and the change that makes it so."""
    yield "unknown key", "task/task.yaml", _set("factorz", value={})
    yield "missing key", "task/companies.yaml", lambda companies: companies[1].pop("mission")
    yield "wrong type", "task/task.yaml", _set("evaluation", "prompts", value="many")
    yield "unknown key", "profile.yaml", _set("student", value={"modell": "embedded"})
    yield "value out of range", "profile.yaml", _set("training", value={"learning_rate": -1.0})
    yield "too many rows", "profile.yaml", _set("sweep", value={"data_sizes": [221], "steps": [2]})
    yield "unknown profile", "profile.yaml", _set("extends", value="huge")
    yield "unknown model", "profile.yaml", _set("student", value={"model": "no-such-folder/model"})


def errors_text() -> str:
    """The errors of one mistake each in a task or a profile."""
    parts = []
    for what, file, change in _mistakes():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_small_task(folder / "task")
            write_yaml(folder / "profile.yaml", PROFILE)
            edit_yaml(folder / file, change)
            message = "no error"
            try:
                load_task_and_profile(str(folder / "task"), str(folder / "profile.yaml"))
            except SynthpostError as error:
                message = f"{type(error).__name__}: {error}"
            parts.append(f"{file}: {what}\n{message.replace(str(folder), 'FOLDER')}\n")
    return "\n".join(parts)


def page_text() -> str:
    """The visible text of the page of a small report, without pictures, an element a line."""
    pictures: defaultdict[str, Markup] = defaultdict(Markup)
    with patch("synthpost_dagster.report.page._figures", lambda *_: pictures):
        words = Reader(render_page(report())).words
    return "".join(f"{' '.join(text.split())}\n" for text in words if text.strip())


SNAPSHOTS = {"help.txt": help_text, "errors.txt": errors_text, "page.txt": page_text}

if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for file_name, text in SNAPSHOTS.items():
        (FOLDER / file_name).write_text(text(), encoding="utf-8")
