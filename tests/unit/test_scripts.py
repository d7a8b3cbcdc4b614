"""The scripts of the set-up: what they show of pip's output, and what they compare with constraints.txt."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PIP_OUTPUT = """\
WARNING: Location 'file:///mirror' is ignored: it is neither a file nor a directory.
Collecting torch
  Downloading torch-2.13.0-cp312-cp312-linux_x86_64.whl.metadata (29 kB)
  Downloading torch-2.13.0-cp312-cp312-linux_x86_64.whl (502.0 MB)
Progress 0 of 526385152
Progress 526385152 of 526385152
  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)
Progress 11050 of 11050
  Using cached jinja2-3.1.6-py3-none-any.whl (134 kB)
Installing collected packages: six, jinja2, torch
Successfully installed six-1.17.0
"""


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / f"{name}.py"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_set_up_counts_downloads_and_names_large_ones() -> None:
    install, out = script("install"), io.StringIO()
    result = install["follow"](PIP_OUTPUT.splitlines(), install["Screen"](out))
    assert result.downloads == {
        "torch-2.13.0-cp312-cp312-linux_x86_64.whl": 526385152,
        "six-1.17.0-py2.py3-none-any.whl": 11050,
    }
    assert result.warnings == 1
    assert "WARNING" not in out.getvalue()
    assert [line.split()[:2] for line in out.getvalue().splitlines()] == [
        ["downloaded", "torch-2.13.0-cp312-cp312-linux_x86_64.whl"],
        ["unpacking", "3"],
    ]


def test_set_up_on_a_terminal_shows_how_much_has_arrived() -> None:
    install, out = script("install"), Terminal()
    install["follow"](PIP_OUTPUT.splitlines()[:5], install["Screen"](out))
    assert "0.0 of 502.0 MiB" in out.getvalue()


def test_set_up_that_fails_keeps_the_log_and_the_status(tmp_path: Path) -> None:
    install, out, log = script("install"), io.StringIO(), tmp_path / "install.log"
    status = install["install"](["--no-index", "no-such-package-of-anyone"], log, install["Screen"](out))
    assert status == 1
    assert "no-such-package-of-anyone" in out.getvalue()
    assert "No matching distribution" in log.read_text()


@pytest.mark.parametrize(("name", "expected"), [("Jinja2", "jinja2"), ("nvidia_nccl_cu13", "nvidia-nccl-cu13")])
def test_distribution_names_compare_as_on_an_index(name: str, expected: str) -> None:
    assert script("resolve")["canonical"](name) == expected


def test_constraints_pin_every_requirement_of_the_project() -> None:
    resolve = script("resolve")
    names = {
        resolve["canonical"](line.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip())
        for line in resolve["requirements"]()
    }
    assert len(names) > 30
    assert names - set(resolve["pinned"]()) == set()


def test_profile_reference_is_fresh() -> None:
    from scripts import profile_reference

    assert profile_reference.FILE.read_text(encoding="utf-8") == profile_reference.reference(), (
        "run `python -m scripts.profile_reference`"
    )


def test_each_key_of_profile_and_task_is_described() -> None:
    from scripts.profile_reference import PARTS, alternatives_in, keys_of

    records = [record for *_, part in PARTS for record in (part, *(one for _, one in alternatives_in(part)))]
    keys = [key for record in records for key in keys_of(record)]
    assert {"training.lora.r", "limits.concurrency", "quality.diversity.min_vendi"} <= {key.name for key in keys}
    assert [key.name for key in keys if not key.meaning] == []


def test_profile_reference_check_fails_if_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import profile_reference

    monkeypatch.setattr(profile_reference, "FILE", tmp_path / "reference.md")
    monkeypatch.setattr("sys.argv", ["profile_reference", "--check"])
    with pytest.raises(SystemExit, match=r"reference\.md is stale"):
        profile_reference.main()
    monkeypatch.setattr("sys.argv", ["profile_reference"])
    profile_reference.main()
    monkeypatch.setattr("sys.argv", ["profile_reference", "--check"])
    profile_reference.main()
