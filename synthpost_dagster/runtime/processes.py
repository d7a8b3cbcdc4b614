"""Names of processes, by which others can check later whether they still run; and interrupts that are not lost."""

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

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """The name of this process."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """`host:pid:start@system` of a running process. Raises psutil.Error or OSError if there is none."""
    return f"{socket.gethostname()}:{pid}:{_start(pid)}@{_system()}"


def is_here(name: str) -> bool:
    """Whether a process belongs to this host, boot and container, so that `is_alive` can check its id."""
    return name.partition(":")[0] == socket.gethostname() and name.rpartition("@")[2] == _system()


def is_alive(name: str) -> bool:
    """Whether a process that `is_here` still runs."""
    pid, _, start = name.partition(":")[2].partition("@")[0].partition(":")
    try:
        # A killed process stays a zombie until its parent has read its exit status.
        is_running = psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
        return bool(is_running and _start(int(pid)) == start)
    except (psutil.Error, OSError, ValueError):
        return False


def _start(pid: int) -> str:
    """The start time of a process in ticks since the boot, which clock changes do not affect."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return f"{psutil.Process(pid).create_time():.6f}"
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc_pid_stat(5); the command may contain spaces


@cache
def _system() -> str:
    """The boot and the process namespace, in which ids are unique; empty if unknown."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = BOOT_ID.read_text().strip()[:8]
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    return f"{boot}.{namespace}"


def resend_lost_interrupts() -> None:
    """Installs handlers: a dropped interrupt is sent again, and SIGTERM interrupts as Ctrl-C does.

    Python prints and drops an exception in a finalizer, of which database connections and torch have many.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shown = sys.unraisablehook

    def resend(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, Exception | SystemExit | GeneratorExit):
            shown(lost)
        else:
            timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
            timer.daemon = True
            timer.start()

    sys.unraisablehook = resend


def end_with_parent() -> None:
    """Waits for the end of the parent process, then interrupts this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
