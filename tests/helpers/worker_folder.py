"""A folder for the temporary files and device locks of this test process and of its children.

With it, tests wait neither for other runs on this machine nor for other test processes. Import it before the package,
which chooses the folder of its locks once. `conftest.py` removes it at the end.
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
