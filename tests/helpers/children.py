"""Modules of this package that tests start as processes of their own: how to start them.

Each such module says in its docstring what its arguments are. It is started by its name, so that it imports the other
helpers as the tests do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository's root."""


def command(module: str, *arguments: object) -> list[str]:
    """Starts a module of this package: `command("chat_server", 0)`. Its environment must be `environment()`."""
    return [sys.executable, "-m", f"tests.helpers.{module}", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment of this process and more, with everything importable that is importable here."""
    return {**os.environ, **more, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
