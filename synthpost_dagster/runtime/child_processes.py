"""Work in processes of their own, several at a time: their progress is heard here, and none outlives this process.

What they do is the caller's business; the driver runs jobs in them, so that nothing is left on the device.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from synthpost_dagster.errors import ArtifactDamaged, SynthpostError
from synthpost_dagster.runtime.processes import end_with_parent, resend_lost_interrupts
from synthpost_dagster.runtime.progress import Event, subscribed

PATIENCE_SECONDS = 30.0
"""A process that is asked to end has so long to free what it holds."""
INTERRUPTED = 130


def run_apart(
    work: Callable[..., None],
    calls: Mapping[str, Sequence[Any]],
    heard: Callable[[Event, str], None],
    ended: Callable[[str, bool], None],
) -> None:
    """Calls `work` once for each title with its arguments, each call in a process of its own, all at a time.

    `heard` is told of every event with the title that it belongs to, `ended` of every title whose process is over and
    whether it ended well. One that fails leaves the others to finish; then SynthpostError is raised with what they
    said. On every other way out, Ctrl-C too, the processes are ended.
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
    """One process, what it sends, and why it failed, once it is over."""

    def __init__(self, title: str, work: Callable[..., None], arguments: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.title, self.failure, self.met_damage = title, "", False
        self.details: list[str] = []
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_work_apart, args=(work, arguments, sender), name=title)
        with _interrupts_held():
            self.process.start()
        sender.close()

    def close(self) -> None:
        """Waits for the end of the process, which has closed its side."""
        self.process.join()
        self.receiver.close()
        if self.process.exitcode == INTERRUPTED:
            self.failure = self.failure or f"{self.title}: stopped; run again to go on from there"
        elif self.process.exitcode == -signal.SIGKILL:
            self.failure = (
                f"{self.title}: its process was killed from outside, as the system does where memory runs out; free "
                "memory and run again to go on from there"
            )
        elif self.process.exitcode:
            self.failure = (
                f"{self.title}: its process ended with {self.process.exitcode}; run again to go on from there"
            )


def _listen(
    children: Sequence[_Child], heard: Callable[[Event, str], None], ended: Callable[[str, bool], None]
) -> None:
    """Passes on what the processes send, until all are over."""
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
    """Interrupts the processes, so that they free what they hold, and kills those that do not end."""
    try:
        for child in children:
            if child.process.is_alive() and child.process.pid:
                os.kill(child.process.pid, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for child in children:
            child.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.process.kill()
            child.process.join()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started within it hears no Ctrl-C before it is ready to."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work_apart(work: Callable[..., None], arguments: Sequence[Any], sender: Connection) -> None:
    """What the process does. A Ctrl-C in the terminal reaches the parent alone, which passes it on, once."""
    os.setpgid(0, 0)
    resend_lost_interrupts()
    threading.Thread(target=end_with_parent, daemon=True).start()
    # Ignored where the parent was started in the background by a script, and inherited from it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with subscribed(sender.send):
            work(*arguments)
    except SynthpostError as error:
        with contextlib.suppress(BrokenPipeError):  # the parent is no more
            sender.send((str(error), error.details, isinstance(error, ArtifactDamaged)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        sender.close()
