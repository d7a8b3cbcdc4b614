"""Interrupts that fall into finalizers are not lost; a process is known again whatever the clock does."""

from __future__ import annotations

import socket
import subprocess
import sys

import psutil
import pytest

from synthpost_dagster.runtime.processes import is_alive, is_here, this_process

DYING = """
import os, signal, time
from synthpost_dagster.runtime.processes import resend_lost_interrupts

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


def test_a_clock_that_steps_leaves_a_living_process_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    name = this_process()
    booted = psutil.boot_time()
    # What a step of the clock changes: the kernel tells the boot by the clock as it is now.
    for step in (-3600.0, 10.0, 86_400.0):
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda step=step: booted + step)
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda step=step: booted + step)
        assert is_here(name)
        assert is_alive(name)
    assert this_process() == name


def test_a_process_of_another_boot_or_container_is_not_here() -> None:
    name = this_process()
    assert is_here(name)
    assert not is_here(f"{name}0")
    assert not is_here(name.replace(socket.gethostname(), "elsewhere", 1))


def test_a_sigterm_interrupts_as_ctrl_c_does() -> None:
    script = (
        "import os, signal\nfrom synthpost_dagster.runtime.processes import resend_lost_interrupts\n"
        "resend_lost_interrupts()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\nexcept KeyboardInterrupt:\n    print('ok')"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "ok"
