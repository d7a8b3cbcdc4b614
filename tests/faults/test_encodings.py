"""Commands print where standard output is not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "import sys; from synthpost_dagster.cli import entry; sys.argv = ['synthpost', *sys.argv[1:]]; entry()"
LATIN = {"PYTHONIOENCODING": "latin-1"}
C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "environment", "expected"),
    [("journal", LATIN, b"profile"), ("doctor", C, b"sales_posts")],
    ids=["latin-1", "C"],
)
def test_commands_print_where_standard_output_is_not_utf_8(
    name: str, environment: dict[str, str], expected: bytes, tmp_path: Path
) -> None:
    ran = command(name, "--home", str(tmp_path / "home"), TMPDIR=str(tmp_path), **environment)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    assert expected in ran.stdout
