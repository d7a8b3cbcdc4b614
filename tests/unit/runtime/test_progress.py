"""Whoever listens hears every event of a stage."""

from __future__ import annotations

import pytest

from synthpost_dagster.runtime.progress import SILENT, Event, Progress, subscribed, to_log


def test_every_listener_and_subscriber_hears_every_event() -> None:
    own: list[Event] = []
    other: list[Event] = []
    progress = Progress(own.append)
    with subscribed(other.append):
        progress.update("training", 1, 50, "steps")
        SILENT.update("judging", 2, 8, "games")
    progress.update("training", 2, 50, "steps")
    assert own == [Event("training", 1, 50, "steps"), Event("training", 2, 50, "steps")]
    assert other == [Event("training", 1, 50, "steps"), Event("judging", 2, 8, "games")]


def test_a_subscription_ends_with_an_error() -> None:
    heard: list[Event] = []
    with pytest.raises(ValueError, match="broke"), subscribed(heard.append):
        raise ValueError("broke")
    SILENT.update("training", 1, 50, "steps")
    assert heard == []


def test_the_log_gets_the_end_of_each_work_and_little_in_between() -> None:
    lines: list[str] = []
    listen = to_log(lines.append, seconds=3600)
    for done in range(1, 51):
        listen(Event("training", done, 50, "steps"))
    listen(Event("judging", 8, 8, "games"))
    assert lines == ["training: 50 of 50 steps", "judging: 8 of 8 games"]


def test_the_log_gets_a_line_when_enough_time_has_passed() -> None:
    lines: list[str] = []
    listen = to_log(lines.append, seconds=0)
    listen(Event("training", 1, 50, "steps"))
    assert lines == ["training: 1 of 50 steps"]


def test_milestone_names_its_place() -> None:
    heard: list[Event] = []
    Progress(heard.append).within("88|50").milestone("tuned", 1, 4, "adapters")
    assert heard == [Event("88|50 tuned", 1, 4, "adapters", is_milestone=True)]


def test_what_is_passed_on_is_heard_as_it_was() -> None:
    heard: list[Event] = []
    event = Event("training", 1, 50, "steps")
    Progress(heard.append).within("88|50").forward(event)
    assert heard == [event]


def test_work_at_one_place_of_several_names_the_place() -> None:
    heard: list[str] = []
    place = Progress(lambda event: heard.append(event.text)).within("88|50")
    place.update("training", 1, 50, "steps")
    place.note("the device is held by another process")
    assert heard == ["88|50 training: 1 of 50 steps", "88|50: the device is held by another process"]
