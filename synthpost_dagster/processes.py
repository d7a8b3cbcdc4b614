"""Names a process so that another can tell, later, whether it still runs; and sees to it that interrupts reach it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

import psutil

CLOCK_SECONDS = 5.0
AGAIN_SECONDS = 0.1


def this_process() -> str:
    """Host, id and start of this process."""
    process = psutil.Process(os.getpid())
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def is_here(name: str) -> bool:
    """Whether the named process ran, or runs, on this host; of others nothing can be said."""
    return name.partition(":")[0] == socket.gethostname()


def is_alive(name: str) -> bool:
    """Whether the named process of this host still runs."""
    pid, _, created = name.partition(":")[2].partition(":")
    try:
        # Both count from the boot as the clock knew it then, and a clock is set right now and again.
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(created)) <= CLOCK_SECONDS
        # Killed, and its parent has not asked what became of it.
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, ValueError):
        return False


def resend_lost_interrupts() -> None:
    """From now on, an interrupt that Python drops is sent again.

    An interrupt is an exception in whatever Python does at that moment. Where that is a finalizer, of which database
    connections and torch have many, Python prints the exception and goes on as if nothing had been.
    """
    shown = sys.unraisablehook

    def heed(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, Exception | SystemExit | GeneratorExit):
            shown(lost)
        else:
            again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()

    sys.unraisablehook = heed
