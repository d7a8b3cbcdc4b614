"""What a judge is, for fingerprints, and how a model judge is asked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from synthpost_dagster.generation.chat_models import Ask, Context, Tally, Work
from synthpost_dagster.generation.journal import Reply
from synthpost_dagster.judging.judges import ModelReader, Rubric, build_judge
from synthpost_dagster.judging.verdicts import Game, Said
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.progress import SILENT
from synthpost_dagster.tasks.loading import Task
from synthpost_dagster.tasks.prompting import Brief

EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]


class Echo:
    """A chat model that remembers what it was shown."""

    name = "fake/echo"

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"model": "echo"}
        self.tally = Tally()
        self.seen: list[Ask] = []

    def answers(self, asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        for ask in asks:
            self.seen.append(ask)
            verdict = '{"verdict": "B"}'
            yield Reply(ask.key, "fake", "echo", "echo", "judging", verdict, "stop", 9, 1, 1, 0.1, 1, 0.0, 0.0, 0.0)


def games(task: Task) -> list[Game]:
    company = task.catalog.companies[0]
    brief = Brief(company, company.products.train[0], task.spec.post_types[0], "Witty")
    return [Game(brief, "first post", "second post"), Game(brief, "second post", "first post")]


def test_a_model_judge_is_shown_the_tasks_prompt_of_each_game(small_task: Task) -> None:
    model = Echo()
    judge = ModelReader(small_task, model, attempts=2)
    assert judge.replies(small_task, games(small_task), 1, SILENT) == [Said('{"verdict": "B"}')] * 2
    shown = [ask.chat[-1]["content"] for ask in model.seen]
    assert shown == [game.prompt(small_task) for game in games(small_task)]
    judge.replies(small_task, games(small_task), 0, SILENT)
    assert len({ask.key for ask in model.seen}) == 4


def test_the_profiles_judge_is_built(small_task: Task, context: Context) -> None:
    tiny = load_profile("tiny", small_task)
    assert build_judge(small_task, tiny, context).name == "rubric"


def test_the_rubric_is_another_one_where_a_check_or_a_length_changed_and_the_same_where_wording_did(
    small_task: Task, edit_task: EditTask
) -> None:
    before = Rubric(small_task).identity
    worded = edit_task("task.yaml", lambda task: task["universal_criteria"][0].update(text="Open with a bang."))
    assert Rubric(worded).identity == before
    stricter = edit_task("task.yaml", lambda task: task["universal_criteria"][0]["check"].update(max_words=3))
    assert Rubric(stricter).identity != before
    longer = edit_task("task.yaml", lambda task: task["lengths"][0].update(max_sentences=4))
    assert Rubric(longer).identity != Rubric(stricter).identity


def test_a_model_judge_is_another_one_where_its_template_changed(small_task: Task) -> None:
    before = ModelReader(small_task, Echo(), 1).identity
    small_task.sources["judge"] += " Be quick."
    assert ModelReader(small_task, Echo(), 1).identity != before
