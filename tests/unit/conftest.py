"""How the unit tier runs."""

from __future__ import annotations

import os

# Torch's threads spin while they wait; on a machine that others share, two of them are ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
