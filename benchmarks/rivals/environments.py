"""The rivals' environments: one each, with exactly the packages of its list, made once and kept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parent
MARK = "installed"
PACKAGES = {"distilabel": ("distilabel", "openai"), "curator": ("bespokelabs-curator", "aiohttp")}
"""Of each rival the package, and what it sends requests with."""


def environment(name: str, folder: Path) -> Path:
    """The Python of a rival's environment under the folder; made anew where its list of packages has changed."""
    listed = FOLDER / f"{name}.txt"
    home, digest = (folder / name).resolve(), hashlib.sha256(listed.read_bytes()).hexdigest()
    mark, python = home / MARK, home / "bin" / "python"
    if not mark.exists() or mark.read_text() != digest:
        print(f"making {home}", file=sys.stderr, flush=True)
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", listed], check=True)
        mark.write_text(digest)
    return python


def versions(name: str, python: Path) -> dict[str, str]:
    """The versions of a rival's packages as they are installed."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {PACKAGES[name]!r}}}))"
    printed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(printed)
    return found
