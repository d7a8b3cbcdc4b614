"""Names a process so that another can tell, later, whether it still runs; and sees to it that interrupts reach it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from functools import cache
from pathlib import Path

import psutil

AGAIN_SECONDS = 0.1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """The name of this process."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """`host:pid:start@system` of a running process. Raises psutil.Error or OSError where there is none of that id."""
    return f"{socket.gethostname()}:{pid}:{_start(pid)}@{_system()}"


def is_here(name: str) -> bool:
    """Whether the named process ran, or runs, where its id means the same as here; of others nothing can be said.

    That is the same host under the same name since the same boot, and the same container.
    """
    return name.partition(":")[0] == socket.gethostname() and name.rpartition("@")[2] == _system()


def is_alive(name: str) -> bool:
    """Whether the named process still runs; the name is one of those that are here."""
    pid, _, start = name.partition(":")[2].partition("@")[0].partition(":")
    try:
        # A killed process stays a zombie until its parent has read its exit status.
        is_running = psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
        return bool(is_running and _start(int(pid)) == start)
    except (psutil.Error, OSError, ValueError):
        return False


def _start(pid: int) -> str:
    """When a process started, as the kernel counts it: a clock that is set right, or steps, changes nothing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return f"{psutil.Process(pid).create_time():.6f}"
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc_pid_stat(5); the command before it may hold spaces


@cache
def _system() -> str:
    """The boot and the process namespace that ids and starts count in; empty where the system tells neither."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = BOOT_ID.read_text().strip()[:8]
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    return f"{boot}.{namespace}"


def resend_lost_interrupts() -> None:
    """From now on, an interrupt that Python drops is sent again, and SIGTERM interrupts as Ctrl-C does.

    An interrupt is an exception in whatever Python does at that moment. Where that is a finalizer, of which database
    connections and torch have many, Python prints the exception and goes on as if nothing had been.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shown = sys.unraisablehook

    def heed(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, Exception | SystemExit | GeneratorExit):
            shown(lost)
        else:
            again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()

    sys.unraisablehook = heed


def end_with_parent() -> None:
    """Interrupts this process when its parent is no more, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
