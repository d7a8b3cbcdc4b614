"""Interrupts in finalizers are not lost; names of processes survive clock steps."""

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
    """Output and errors of a process with this finalizer, which then sleeps."""
    script = DYING.format(last=last, seconds=seconds)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    return ran.stdout.strip(), ran.stderr


def test_interrupt_in_a_finalizer_is_sent_again() -> None:
    assert said("os.kill(os.getpid(), signal.SIGINT); time.sleep(1)", 60) == ("interrupted", "")


def test_other_errors_in_finalizers_are_printed() -> None:
    out, shown = said("raise ValueError('broke')", 1)
    assert out == "goes on"
    assert "ValueError: broke" in shown


def test_clock_steps_do_not_end_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    name = this_process()
    booted = psutil.boot_time()
    # A step of the clock changes the boot time that the kernel reports.
    for step in (-3600.0, 10.0, 86_400.0):
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda step=step: booted + step)
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda step=step: booted + step)
        assert is_here(name)
        assert is_alive(name)
    assert this_process() == name


def test_process_of_another_boot_or_host_is_not_here() -> None:
    name = this_process()
    assert is_here(name)
    assert not is_here(f"{name}0")
    assert not is_here(name.replace(socket.gethostname(), "elsewhere", 1))


def test_sigterm_interrupts_as_ctrl_c_does() -> None:
    script = (
        "import os, signal\nfrom synthpost_dagster.runtime.processes import resend_lost_interrupts\n"
        "resend_lost_interrupts()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\nexcept KeyboardInterrupt:\n    print('ok')"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "ok"
