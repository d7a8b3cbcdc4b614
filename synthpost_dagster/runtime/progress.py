"""How far long work is: stages report here, the terminal and Dagster's log listen.

A stage gets a `Progress` and calls `update`; listeners get every event. Nothing here draws.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Event(NamedTuple):
    """`done` of `total` units of `what`, for example 16 of 50 steps of training; a total of 0 is a message.

    `detail` may add rate, tokens or cost. A milestone is worth a line of its own, however soon it follows another.
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
    """Within it, the listener hears every stage of this process: how the terminal follows runs that Dagster starts."""
    _subscribers.append(listener)
    try:
        yield
    finally:
        _subscribers.remove(listener)


def to_log(log: Callable[[str], None], seconds: float = 5.0) -> Listener:
    """A listener that writes a line at the end of each kind of work, and at most one in `seconds` before."""
    last = {"at": time.monotonic()}

    def listen(event: Event) -> None:
        now = time.monotonic()
        if event.done == event.total or now - last["at"] >= seconds:
            last["at"] = now
            log(event.text)

    return listen


class Progress:
    """Hands the events of one stage to its listeners, and to those that subscribed."""

    def __init__(self, *listeners: Listener, place: str = "") -> None:
        self._listeners, self._place = listeners, place

    def within(self, place: str) -> Progress:
        """The same listeners, for work at one place of several, such as the cell `88|50`."""
        return Progress(*self._listeners, place=place)

    def update(self, what: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """Tells every listener how far `what` is."""
        self._tell(Event(self._at_place(what), done, total, unit, detail))

    def milestone(self, what: str, done: int, total: int, unit: str) -> None:
        """Tells that another of `what` is over."""
        self._tell(Event(self._at_place(what), done, total, unit, is_milestone=True))

    def pass_on(self, event: Event) -> None:
        """Tells of what was heard from elsewhere, such as another process."""
        self._tell(event)

    def note(self, message: str) -> None:
        """Tells every listener something that has no measure, such as that the work waits."""
        self._tell(Event(f"{self._place}: {message}" if self._place else message, 0, 0, ""))

    def _at_place(self, what: str) -> str:
        return f"{self._place} {what}" if self._place else what

    def _tell(self, event: Event) -> None:
        for listener in (*self._listeners, *_subscribers):
            listener(event)


def announce(message: str) -> None:
    """Tells everyone who subscribed something that is no stage's; where nobody did, it is logged as a warning."""
    if _subscribers:
        Progress().note(message)
    else:
        LOG.warning(message)


SILENT = Progress()
