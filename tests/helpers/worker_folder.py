"""A folder for the temporary files of this test process and of its children; with them lie the locks of its devices.

So the tests wait for no run of this machine, nor for the tests beside them. To be imported before the package, which
chooses the folder of its locks once; `conftest.py` removes it at the end.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Pytest's own folders stay where people look for them after a failure.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
FOLDER = Path(tempfile.mkdtemp(prefix="sp-"))
# PostgreSQL runs as a user of its own, whose cluster lies in here.
FOLDER.chmod(0o755)
os.environ["TMPDIR"] = tempfile.tempdir = str(FOLDER)
