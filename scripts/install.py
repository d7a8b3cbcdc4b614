"""Installs into this Python's virtual environment and shows progress.

    python scripts/install.py [--index URL] PIP_ARGUMENT...

pip's own lines go to `install.log` in the environment. On the screen is one line that says which package is being
downloaded, how large it is and how much of it has arrived; warnings are counted, errors are shown. `--index` names the
index that holds another build of the packages, which are then installed without their dependencies.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TextIO

DOWNLOADING = re.compile(r"\s*Downloading (?P<file>\S+?)(?:\.metadata)? \((?P<size>[\d.]+ [kMG]?B)\)")
PROGRESS = re.compile(r"Progress (?P<done>\d+) of (?P<total>\d+)")
INSTALLING = re.compile(r"Installing collected packages: (?P<names>.+)")
MEBIBYTE = 1024**2
LARGE = 20 * MEBIBYTE
"""Downloads above this keep a line of their own on the screen."""
ERROR_LINES = 25


class Result(NamedTuple):
    """What was downloaded, in bytes by file name, and how many warnings pip gave."""

    downloads: dict[str, int]
    warnings: int

    @property
    def mebibytes(self) -> float:
        """The size of all downloads."""
        return sum(self.downloads.values()) / MEBIBYTE


class Screen:
    """One line that is rewritten where the output is a terminal; elsewhere only lines that stay are printed."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.is_terminal = out, out.isatty()

    def status(self, text: str) -> None:
        """Replaces the line."""
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self.out.write(f"\r\x1b[K{text[:width]}")
            self.out.flush()

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        self.out.write(f"\r\x1b[K{text}\n" if self.is_terminal else f"{text}\n")
        self.out.flush()


def follow(lines: Iterable[str], screen: Screen) -> Result:
    """Reads pip's output with `--progress-bar raw`, and shows what is being downloaded."""
    downloads: dict[str, int] = {}
    warnings, file = 0, ""
    for line in lines:
        if found := DOWNLOADING.match(line):
            # Metadata is downloaded as well; it has no progress lines and is too small to mention.
            file = found["file"] if ".metadata" not in line else ""
        elif (found := PROGRESS.match(line)) and file:
            done, total = int(found["done"]), int(found["total"])
            screen.status(f"  downloading {file}: {done / MEBIBYTE:,.1f} of {total / MEBIBYTE:,.1f} MiB")
            if done == total and file not in downloads:
                downloads[file] = total
                if total >= LARGE:
                    screen.line(f"  downloaded {file} ({total / MEBIBYTE:,.0f} MiB)")
        elif found := INSTALLING.match(line):
            screen.line(f"  unpacking {found['names'].count(',') + 1} packages; this takes about a minute")
        elif line.startswith("WARNING:"):
            warnings += 1
    return Result(downloads, warnings)


def install(arguments: list[str], log: Path, screen: Screen) -> int:
    """Runs `pip install`; the exit status of pip."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--progress-bar",
        "raw",
        *arguments,
    ]
    started = time.monotonic()
    with (
        log.open("a", encoding="utf-8") as kept,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it was asked for

        def recorded(lines: Iterable[str]) -> Iterable[str]:
            for line in lines:
                kept.write(line)
                yield line

        result = follow(recorded(process.stdout), screen)
    seconds = time.monotonic() - started
    status = process.returncode
    if status:
        errors = [line for line in log.read_text(encoding="utf-8").splitlines() if not line.startswith("WARNING:")]
        screen.line("\n".join(errors[-ERROR_LINES:]))
        screen.line(f"pip failed after {seconds:.0f} s; all it said is in {log}")
    else:
        noted = f"; {result.warnings} warnings of pip are in {log}" if result.warnings else ""
        size = f"{len(result.downloads)} files, {result.mebibytes:,.0f} MiB"
        screen.line(f"  downloaded {size} in {seconds:.0f} s{noted}")
    return status


def main() -> None:
    """Command line."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--index"]:
        _, url, *arguments = arguments
        # What the package needs comes from the main index: the other one may lack the versions in constraints.txt.
        arguments = ["--no-deps", "--index-url", url, *arguments] if url else arguments
    sys.exit(install(arguments, Path(sys.prefix) / "install.log", Screen(sys.stdout)))


if __name__ == "__main__":
    main()
