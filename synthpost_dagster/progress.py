"""How far long work is: stages report here, the terminal and Dagster's log listen.

A stage gets a `Progress` and calls `update`; listeners get every event. Nothing here draws.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Event(NamedTuple):
    """`done` of `total` units of `what`, for example 16 of 50 steps of training; a total of 0 is a mere message.

    `detail` may say more: rate, tokens, cost, time left. `work` is how much of the whole sweep's work is done with
    this event, in the units of `stages.effort`, so that what is left can be told before its run has ended. A milestone
    is worth a line of its own, however soon it follows another; its work is what was not to be done, or not here.
    """

    what: str
    done: int
    total: int
    unit: str
    detail: str = ""
    work: float = 0.0
    is_milestone: bool = False

    @property
    def text(self) -> str:
        """The event in words."""
        if not self.total:
            return self.what
        text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"
        return f"{text} ({self.detail})" if self.detail else text


Listener = Callable[[Event], None]


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
        self._share = 0.0

    def within(self, place: str) -> Progress:
        """The same listeners, told of work at one place of several, such as the cell `88|50`."""
        return Progress(*self._listeners, place=place)

    def heard_by(self, listener: Listener) -> Progress:
        """The same, with one more listener."""
        return Progress(*self._listeners, listener, place=self._place)

    def worth(self, work: float) -> Progress:
        """The same for one piece of work, of which every update's share is told: the farthest yet, so that what is
        begun again is not counted again.
        """
        return Progress(*self._listeners, place=self._place, work=work)

    def parts(self, count: int) -> list[Progress]:
        """One for each of so many equal parts of the work."""
        return [self.worth(self._work / count) for _ in range(count)]

    def update(
        self,
        what: str,
        done: int,
        total: int,
        unit: str,
        detail: str = "",
        work: float = 0.0,
        is_milestone: bool = False,
    ) -> None:
        """Tells every listener how far `what` is."""
        share = max(done / total if total else 0.0, self._share)
        work += self._work * (share - self._share)
        self._share = share
        what = f"{self._place} {what}" if self._place else what
        self._tell(Event(what, done, total, unit, detail, work, is_milestone))

    def note(self, message: str) -> None:
        """Tells every listener something that has no measure, such as that the work waits."""
        self._tell(Event(f"{self._place}: {message}" if self._place else message, 0, 0, ""))

    def _tell(self, event: Event) -> None:
        for listener in (*self._listeners, *_subscribers):
            listener(event)


SILENT = Progress()
