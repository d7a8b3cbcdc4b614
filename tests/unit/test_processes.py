"""An interrupt that falls into a finalizer is not lost; other errors in finalizers are shown as ever."""

from __future__ import annotations

import subprocess
import sys

DYING = """
import os, signal, time
from synthpost_dagster.processes import resend_lost_interrupts

class Dying:
    def __del__(self):
        {last}

resend_lost_interrupts()
try:
    Dying()
    time.sleep({seconds})
    print("goes on")
except KeyboardInterrupt:
    print("interrupted")
"""


def said(last: str, seconds: float) -> tuple[str, str]:
    """What a process says whose finalizer does this, and which then has so many seconds to be interrupted."""
    script = DYING.format(last=last, seconds=seconds)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    return ran.stdout.strip(), ran.stderr


def test_an_interrupt_in_a_finalizer_comes_again_and_no_traceback_is_shown() -> None:
    assert said("os.kill(os.getpid(), signal.SIGINT); time.sleep(1)", 60) == ("interrupted", "")


def test_another_error_in_a_finalizer_is_shown_and_interrupts_nothing() -> None:
    out, shown = said("raise ValueError('broke')", 1)
    assert out == "goes on"
    assert "ValueError: broke" in shown
