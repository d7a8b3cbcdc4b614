"""Progress events reach all listeners."""

from __future__ import annotations

import pytest

from synthpost_dagster.runtime.progress import SILENT, Event, Progress, subscribed, to_log


def test_listeners_and_subscribers_get_every_event() -> None:
    own: list[Event] = []
    other: list[Event] = []
    progress = Progress(own.append)
    with subscribed(other.append):
        progress.update("training", 1, 50, "steps")
        SILENT.update("judging", 2, 8, "games")
    progress.update("training", 2, 50, "steps")
    assert own == [Event("training", 1, 50, "steps"), Event("training", 2, 50, "steps")]
    assert other == [Event("training", 1, 50, "steps"), Event("judging", 2, 8, "games")]


def test_error_ends_a_subscription() -> None:
    heard: list[Event] = []
    with pytest.raises(ValueError, match="broke"), subscribed(heard.append):
        raise ValueError("broke")
    SILENT.update("training", 1, 50, "steps")
    assert heard == []


def test_log_gets_the_end_of_each_kind_of_work() -> None:
    lines: list[str] = []
    listen = to_log(lines.append, seconds=3600)
    for done in range(1, 51):
        listen(Event("training", done, 50, "steps"))
    listen(Event("judging", 8, 8, "games"))
    assert lines == ["training: 50 of 50 steps", "judging: 8 of 8 games"]


def test_log_gets_a_line_after_the_interval() -> None:
    lines: list[str] = []
    listen = to_log(lines.append, seconds=0)
    listen(Event("training", 1, 50, "steps"))
    assert lines == ["training: 1 of 50 steps"]


def test_milestone_names_its_place() -> None:
    heard: list[Event] = []
    Progress(heard.append).within("88|50").milestone("tuned", 1, 4, "adapters")
    assert heard == [Event("88|50 tuned", 1, 4, "adapters", is_milestone=True)]


def test_forwarded_event_is_unchanged() -> None:
    heard: list[Event] = []
    event = Event("training", 1, 50, "steps")
    Progress(heard.append).within("88|50").forward(event)
    assert heard == [event]


def test_events_name_their_place() -> None:
    heard: list[str] = []
    place = Progress(lambda event: heard.append(event.text)).within("88|50")
    place.update("training", 1, 50, "steps")
    place.note("the device is held by another process")
    assert heard == ["88|50 training: 1 of 50 steps", "88|50: the device is held by another process"]
