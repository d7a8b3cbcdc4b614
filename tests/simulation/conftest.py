"""How the simulations run."""

from __future__ import annotations

import os

# Two threads that wait for each other on a shared machine are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
