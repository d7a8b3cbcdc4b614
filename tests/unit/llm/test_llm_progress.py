"""Progress of a series of requests."""

from __future__ import annotations

import pytest

from synthpost_dagster.llm import progress
from synthpost_dagster.llm.chat_models import Tally, Work
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.llm.progress import Meter
from synthpost_dagster.runtime.progress import Event, Progress


def reply(number: int) -> Reply:
    return Reply(f"{number}", "fake", "teacher", "teacher", "rows", "Ride.", "stop", 40, 10, 3, 0.1, 1, 0.5, 0.0, 0.0)


def test_journaled_and_requested_replies_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    events: list[Event] = []
    counted = Meter(Work("synthetic rows", 4, Progress(events.append)), Tally())
    counted.found(2)
    for number in (3, 4):
        counted.asked(reply(number))
    assert [event.done for event in events] == [2, 3, 4]
    assert events[0].text == "synthetic rows: 2 of 4 replies (from the journal)"
    assert all(part in events[-1].text for part in ("4 of 4 replies", "26 tokens", "$1.0000"))
