"""Resolves the dependencies for every supported Python that is installed here, without installing anything.

    python scripts/resolve.py [3.12 ...]

For each Python: the package with every extra and the development tools, against constraints.txt and the package
index's own builds (those that this machine keeps are left out). Since every version is pinned, what resolves together
resolves without any of the extras as well. Fails where pip finds no solution, where constraints.txt does not pin what
would be installed, or where a Python that was named is missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUPPORTED = ("3.11", "3.12", "3.13")
FREE = {"certifi", "synthpost"}
"""constraints.txt gives a range for certifi, and cannot pin this project."""


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """The versions in constraints.txt, by canonical name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonical(name): version for name, version in pairs}


def requirements() -> list[str]:
    """The project's, with every extra and the development tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    return [*project["project"]["dependencies"], *chain(*extras), *project["dependency-groups"]["dev"]]


def interpreters(wanted: list[str]) -> dict[str, str]:
    """Version → executable, of the supported Pythons on PATH and of pyenv's. Exits where a wanted one is missing."""
    found = {}
    roots = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin/python"))
    for version in SUPPORTED:
        kept = [str(path) for path in roots if path.parent.parent.name.startswith(f"{version}.")]
        own = sys.executable if sys.version_info[:2] == tuple(map(int, version.split("."))) else None
        if executable := own or (kept[-1] if kept else shutil.which(f"python{version}")):
            found[version] = executable
    if missing := [version for version in wanted if version not in found]:
        sys.exit(f"no Python {', '.join(missing)} here")
    return {version: found[version] for version in wanted or found}


def environment() -> dict[str, str]:
    """pip's, without builds, constraints and further indexes of this machine; its main index stays."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    index = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    own = {"PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return ({"PIP_INDEX_URL": index} if index else {}) | kept | {"PIP_CONFIG_FILE": os.devnull}


def resolve(python: str, folder: Path) -> dict[str, str]:
    """Name → version of what pip would install. Raises CalledProcessError where it finds no solution."""
    report = folder / "report.json"
    # With fast-deps metadata alone is downloaded where the index serves parts of files.
    options = ["--quiet", "--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", str(report)]
    subprocess.run(
        [python, "-m", "pip", "install", *options, "-c", str(ROOT / "constraints.txt"), *requirements()],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    chosen = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {canonical(one["name"]): one["version"] for one in chosen}


def fault(version: str, executable: str) -> str | None:
    """What is wrong with the constraints for one Python."""
    started, versions = time.monotonic(), pinned()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([executable, "-m", "venv", str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "pip>=25.1"], check=True, stderr=subprocess.DEVNULL)
        try:
            chosen = resolve(python, folder)
        except subprocess.CalledProcessError as error:
            return f"Python {version}: {error.stderr.strip()}"
    unpinned = {f"{name}=={chosen[name]}" for name in chosen if name not in FREE and versions.get(name) != chosen[name]}
    if unpinned:
        return f"Python {version}: constraints.txt lacks {', '.join(sorted(unpinned))}"
    print(f"Python {version}: {len(chosen)} packages resolve in {time.monotonic() - started:.0f} s", flush=True)
    return None


def main() -> None:
    """Exits with 1 where the constraints do not resolve for one of the Pythons."""
    faults = [fault(version, executable) for version, executable in interpreters(sys.argv[1:]).items()]
    if any(faults):
        sys.exit("\n".join(filter(None, faults)))


if __name__ == "__main__":
    main()
