"""Runs functions in child processes, forwards their progress events, and ends the children with this process.

The driver runs jobs in them, so that the end of a job frees all GPU memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from synthpost_dagster.errors import ArtifactDamaged, SynthpostError
from synthpost_dagster.runtime.processes import end_with_parent, resend_lost_interrupts
from synthpost_dagster.runtime.progress import Event, subscribed

MAX_SHUTDOWN_SECONDS = 30.0
"""Time for an interrupted child to release the device; then it is killed."""
INTERRUPTED = 130


def run_apart(
    work: Callable[..., None],
    calls: Mapping[str, Sequence[Any]],
    heard: Callable[[Event, str], None],
    ended: Callable[[str, bool], None],
) -> None:
    """Calls `work` with the arguments of each title, each in a child process, all concurrently.

    `heard` receives each event with its title, `ended` each finished title and whether it succeeded. If a child fails,
    the others finish first; then SynthpostError is raised with the messages of all that failed. On any other
    exception, KeyboardInterrupt included, the children are ended.
    """
    children: list[_Child] = []
    try:
        for title, arguments in calls.items():
            children.append(_Child(title, work, arguments))
        _listen(children, heard, ended)
    except BaseException:
        _end(children)
        raise
    if failures := [child for child in children if child.failure]:
        details = dict.fromkeys(line for child in failures for line in child.details)
        kind = ArtifactDamaged if any(child.met_damage for child in failures) else SynthpostError
        raise kind("; ".join(dict.fromkeys(child.failure for child in failures)), details=details)


class _Child:
    """A child process, its pipe, and the reason if it failed."""

    def __init__(self, title: str, work: Callable[..., None], arguments: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.title, self.failure, self.met_damage = title, "", False
        self.details: list[str] = []
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_child_main, args=(work, arguments, sender), name=title)
        # A child inherits the block until it has its own handler.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()

    def close(self) -> None:
        """Waits for the process, which has closed its end of the pipe, and notes a failure."""
        self.process.join()
        self.receiver.close()
        if self.process.exitcode == INTERRUPTED:
            self.failure = self.failure or f"{self.title}: stopped; run again to resume"
        elif self.process.exitcode == -signal.SIGKILL:
            self.failure = (
                f"{self.title}: its process was killed (SIGKILL), probably because memory ran out; free memory and run "
                "again to resume"
            )
        elif self.process.exitcode:
            self.failure = f"{self.title}: its process ended with status {self.process.exitcode}; run again to resume"


def _listen(
    children: Sequence[_Child], heard: Callable[[Event, str], None], ended: Callable[[str, bool], None]
) -> None:
    """Forwards events until all children have ended."""
    running: dict[Any, _Child] = {child.receiver: child for child in children}
    while running:
        for ready in wait(list(running)):
            child = running[ready]
            try:
                message = child.receiver.recv()
            except EOFError:
                del running[ready]
                child.close()
                ended(child.title, not child.failure)
                continue
            if isinstance(message, Event):
                heard(message, child.title)
            else:
                child.failure, child.details, child.met_damage = message


def _end(children: Sequence[_Child]) -> None:
    """Interrupts the children so that they release the device, then kills those that are still running."""
    try:
        for child in children:
            if child.process.is_alive() and child.process.pid:
                os.kill(child.process.pid, signal.SIGINT)
        deadline = time.monotonic() + MAX_SHUTDOWN_SECONDS
        for child in children:
            child.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.process.kill()
            child.process.join()


def _child_main(work: Callable[..., None], arguments: Sequence[Any], sender: Connection) -> None:
    """Main function of a child. Its own process group keeps Ctrl-C from it; the parent forwards the interrupt once."""
    os.setpgid(0, 0)
    resend_lost_interrupts()
    threading.Thread(target=end_with_parent, daemon=True).start()
    # A parent started in the background by a script ignores SIGINT, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with subscribed(sender.send):
            work(*arguments)
    except SynthpostError as error:
        with contextlib.suppress(BrokenPipeError):  # the parent has ended
            sender.send((str(error), error.details, isinstance(error, ArtifactDamaged)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        sender.close()
