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
    """`done` of `total` units of `what`, for example 16 of 50 steps of training; a total of 0 is a mere message.

    `detail` may say more: rate, tokens, cost, time left. `work` is how much of the whole sweep's work is over with this
    event, in the units of `stages.effort`, so that what is left can be told before its run has ended; `made` is how
    much of that was done now, while the rest was there before. A milestone is worth a line of its own, however soon it
    follows another.
    """

    what: str
    done: int
    total: int
    unit: str
    detail: str = ""
    work: float = 0.0
    made: float = 0.0
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

    def __init__(self, *listeners: Listener, place: str = "", work: float = 0.0) -> None:
        self._listeners, self._place, self._work = listeners, place, work
        self._farthest = self._now = self._before = 0.0

    def within(self, place: str) -> Progress:
        """The same listeners, told of work at one place of several, such as the cell `88|50`."""
        return Progress(*self._listeners, place=place)

    def worth(self, work: float) -> Progress:
        """The same listeners and place, for one piece of work: every update tells its share, counted from the farthest
        told so far, so that what is begun again is over once.
        """
        return Progress(*self._listeners, place=self._place, work=work)

    def portion(self, share: float) -> Progress:
        """For a part of the piece of work, such as one round of several; it begins anew."""
        return self.worth(self._work * share)

    def update(self, what: str, done: int, total: int, unit: str, detail: str = "", before: int = 0) -> None:
        """Tells every listener how far `what` is; `before` of what is done were there when it began."""
        now, found = (done / total, before / total) if total else (self._now, self._before)
        over = max(now - self._farthest, 0.0)
        made = max(now - self._now - max(found - self._before, 0.0), 0.0)
        self._farthest, self._now, self._before = max(now, self._farthest), now, found
        self._tell(Event(self._at_place(what), done, total, unit, detail, self._work * over, self._work * made))

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
