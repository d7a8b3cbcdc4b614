"""Progress events: stages report them; the terminal and Dagster's log listen. Nothing here draws."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Event(NamedTuple):
    """`done` of `total` units of `what`, for example 16 of 50 steps of training; a total of 0 is a message.

    `detail` may add rate, tokens or cost. A milestone always gets a line of its own.
    """

    what: str
    done: int
    total: int
    unit: str
    detail: str = ""
    is_milestone: bool = False

    @property
    def text(self) -> str:
        """The event in words."""
        if not self.total:
            return self.what
        text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"
        return f"{text} ({self.detail})" if self.detail else text


Listener = Callable[[Event], None]

LOG = logging.getLogger("synthpost")


_subscribers: list[Listener] = []


@contextlib.contextmanager
def subscribed(listener: Listener) -> Iterator[None]:
    """Within the block, the listener gets the events of every stage in this process."""
    _subscribers.append(listener)
    try:
        yield
    finally:
        _subscribers.remove(listener)


def to_log(log: Callable[[str], None], seconds: float = 5.0) -> Listener:
    """A listener that logs the end of each kind of work, and at most one line per `seconds` before it."""
    last = {"at": time.monotonic()}

    def listen(event: Event) -> None:
        now = time.monotonic()
        if event.done == event.total or now - last["at"] >= seconds:
            last["at"] = now
            log(event.text)

    return listen


class Progress:
    """Sends the events of one stage to its listeners and to all subscribers."""

    def __init__(self, *listeners: Listener, place: str = "") -> None:
        self._listeners, self._place = listeners, place

    def within(self, place: str) -> Progress:
        """Progress of work at one place of several, such as the cell `88|50`, for the same listeners."""
        return Progress(*self._listeners, place=place)

    def update(self, what: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """Reports how much of `what` is done."""
        self.forward(Event(self._at_place(what), done, total, unit, detail))

    def milestone(self, what: str, done: int, total: int, unit: str) -> None:
        """Reports that another unit of `what` is done, as a line of its own."""
        self.forward(Event(self._at_place(what), done, total, unit, is_milestone=True))

    def forward(self, event: Event) -> None:
        """Sends an event, such as one of another process, to every listener."""
        for listener in (*self._listeners, *_subscribers):
            listener(event)

    def note(self, message: str) -> None:
        """Reports a message without a measure, such as that the work waits."""
        self.forward(Event(f"{self._place}: {message}" if self._place else message, 0, 0, ""))

    def _at_place(self, what: str) -> str:
        return f"{self._place} {what}" if self._place else what


def announce(message: str) -> None:
    """Sends a message that belongs to no stage to all subscribers; without any, logs it as a warning."""
    if _subscribers:
        Progress().note(message)
    else:
        LOG.warning(message)


SILENT = Progress()
