"""Every command in the documentation works: executed in ```bash fences, parsed in ```bash no-ci fences."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from synthpost_dagster.cli import main
from tests.helpers.small_study import BIN, SmallStudy

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```bash(?P<no_ci> no-ci)?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("make", "synthpost", "dagster", "dg")
NOT_IN_CI = {"ui", "help"}
"""Targets of make that CI does not run: they end only when they are stopped, or only print."""


class Command(NamedTuple):
    """A command line in a document."""

    file: str
    words: list[str]
    is_run: bool

    @property
    def program(self) -> str:
        return Path(self.words[0]).name

    def __str__(self) -> str:
        return f"{self.file}: {shlex.join(self.words)}"


def commands_of(text: str, file: str) -> Iterator[Command]:
    for fence in FENCE.finditer(text):
        for line in fence["body"].replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name in PROGRAMS:
                yield Command(file, words, fence["no_ci"] is None)


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [command for path in DOCUMENTS for command in commands_of(path.read_text(encoding="utf-8"), path.name)]
MAKE = [command for command in COMMANDS if command.program == "make"]
EXECUTED = [command for command in COMMANDS if command.is_run and command.program != "make"]
PARSED = [command for command in COMMANDS if not command.is_run and command.program == "synthpost"]


def run(study: SmallStudy, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a documented command in the repository, against the study."""
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=ROOT,
        env=study.environment(DAGSTER_HOME=str(study.home / "dagster")),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def make_targets(words: list[str]) -> list[str]:
    return [word for word in words[1:] if "=" not in word and not word.startswith("-")]


def run_by_ci() -> set[str]:
    calls = re.findall(r"\bmake ((?:[\w./-]+ ?)+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    return {target for call in calls for target in call.split()}


def parse(words: list[str]) -> click.Context:
    """Parses `synthpost COMMAND OPTION…` without running it. Raises click.UsageError for an unknown option."""
    name, command, rest = main.resolve_command(click.Context(main), words[1:])
    assert command is not None
    return command.make_context(name, rest)


def test_commands_in_fences_are_found_with_their_kind() -> None:
    text = "```bash\nmake demo  # text\nls\n```\n```bash no-ci\n.venv/bin/synthpost run\n```\n```\ndg no\n```\n"
    found = list(commands_of(text, "README.md"))
    assert found == [
        Command("README.md", ["make", "demo"], True),
        Command("README.md", [".venv/bin/synthpost", "run"], False),
    ]
    assert MAKE and EXECUTED and PARSED


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_documented_make_target_exists_and_is_run_by_ci(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(INSTALLED):", ".venv/.installed:")
    for target in make_targets(command.words):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"no target {target}"
        assert target in run_by_ci() | NOT_IN_CI


@pytest.mark.parametrize("command", PARSED, ids=str)
def test_documented_option_of_synthpost_exists(command: Command) -> None:
    parse(command.words)


def test_unknown_option_does_not_parse() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(["synthpost", "run", "--sizes", "8"])


@pytest.mark.parametrize("command", EXECUTED, ids=str)
def test_documented_command_succeeds_on_a_finished_home(command: Command, changeable: SmallStudy) -> None:
    done = run(changeable, command.words)
    assert done.returncode == 0, done.stderr


def test_dg_lists_the_assets_as_json(changeable: SmallStudy) -> None:
    done = run(changeable, ["dg", "list", "defs", "--json"])
    assert done.returncode == 0, done.stderr
    listed = {asset["asset_key"] for asset in json.loads(done.stdout)["assets"]}
    assert {"synthetic_rows", "adapters", "verdicts", "ratio_report"} <= listed
