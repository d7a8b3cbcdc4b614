"""The judges: the rubric, and a model that reads the task's judge prompt. Both answer in the same words."""

from __future__ import annotations

import json
import time
from typing import Any

from synthpost_dagster.generation.chat_models import ChatModel, Context, Tally, Work, ask_for, chat_model
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.judging.criteria import RULES, criteria_met
from synthpost_dagster.judging.verdicts import Game, Judge, Said
from synthpost_dagster.profiles import Profile
from synthpost_dagster.profiles.models import RubricJudge
from synthpost_dagster.progress import Progress
from synthpost_dagster.tasks.loading import Task

JUDGING = "judging"
"""What the journal calls a judge's replies."""
VERDICT_SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
"""What a judge's reply is to look like, where its endpoint heeds a schema."""


class Rubric:
    """Prefers the post that meets more of the criteria that can be checked on text; equal numbers are a tie."""

    name = "rubric"
    attempts = 1

    def __init__(self, task: Task) -> None:
        self.tally = Tally()
        spec = task.spec
        self.identity: dict[str, Any] = {
            "judge": "rubric",
            "rules": RULES,
            "universal": [criterion.check.model_dump() for criterion in spec.universal_criteria],
            "types": {
                kind.name: [
                    spec.length_of(kind).model_dump(),
                    [criterion.check.model_dump() for criterion in kind.criteria],
                ]
                for kind in spec.post_types
            },
        }

    def replies(self, task: Task, games: list[Game], attempt: int, progress: Progress) -> list[Said]:
        """The verdict in JSON, with the criteria each post misses."""
        started, replies = time.monotonic(), []
        for done, game in enumerate(games, start=1):
            met = [criteria_met(post, game.brief, task.spec) for post in (game.post_a, game.post_b)]
            first, second = (sum(found.values()) for found in met)
            verdict = "A" if first > second else "B" if second > first else "tie"
            missed = [[name for name, is_met in found.items() if not is_met] for found in met]
            reply = {"verdict": verdict, "a_misses": missed[0], "b_misses": missed[1]}
            replies.append(Said(json.dumps(reply)))
            if done % 50 == 0 or done == len(games):
                progress.update("judging", done, len(games), "games")
        self.tally.seconds += time.monotonic() - started
        return replies


class ModelReader:
    """A chat model that is shown the task's judge prompt."""

    def __init__(self, task: Task, model: ChatModel, attempts: int) -> None:
        self.model, self.attempts, self.name, self.tally = model, attempts, model.name, model.tally
        self.identity: dict[str, Any] = {
            **model.identity,
            "template": task.sources["judge"],
            "wording": task.wording_fingerprint,
        }

    def replies(self, task: Task, games: list[Game], attempt: int, progress: Progress) -> list[Said]:
        """The model's replies as they came."""
        asks = (ask_for(self.model, chat(game.prompt(task)), attempt) for game in games)
        return [
            Said(reply.text, reply.finish_reason)
            for reply in self.model.answers(asks, Work(JUDGING, len(games), progress))
        ]


def build_judge(task: Task, profile: Profile, context: Context) -> Judge:
    """The profile's judge."""
    spec = profile.judge
    if isinstance(spec, RubricJudge):
        return Rubric(task)
    return ModelReader(task, chat_model(spec, context, VERDICT_SCHEMA), spec.attempts)
