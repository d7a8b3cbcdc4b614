"""The judges: the rubric, and a model that reads the task's judge prompt. Both answer with the same JSON.

A judge of another kind is a class that follows `verdicts.Judge`, a spec with its own `backend` in `profiles.models`,
and an entry in `JUDGES`.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from synthpost_dagster.inference.generate import chat
from synthpost_dagster.judging.criteria import RULES, criteria_met, unscored_reason
from synthpost_dagster.judging.replies import READING, JudgeReply
from synthpost_dagster.judging.verdicts import Game, Judge, Request
from synthpost_dagster.llm.chat_models import Ask, ChatModel, Context, Tally, Work, ask_for, chat_model
from synthpost_dagster.profiles import Profile
from synthpost_dagster.profiles.models import HostedChat, InProcessChat, RubricJudge
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.tasks.task import Task

JUDGING = "judging"
"""Purpose of a judge's replies in the journal."""


def verdict_schema(task: Task, may_tie: bool) -> dict[str, Any]:
    """The JSON schema of a judge's reply, for endpoints that support one.

    The verdict comes after the preferences by criterion and the reason, so that it follows from them.
    """
    picks = ["A", "B", "tie"]
    preference = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": task.criterion_ids},
            "preference": {"type": "string", "enum": picks},
        },
        "required": ["id", "preference"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "criteria": {"type": "array", "items": preference},
            "why": {"type": "string"},
            "verdict": {"type": "string", "enum": picks if may_tie else ["A", "B"]},
        },
        "required": ["criteria", "why", "verdict"],
        "additionalProperties": False,
    }


class Rubric:
    """Prefers the post that meets more of the criteria that can be checked on text; equal numbers are a tie, even if
    the rules allow none.
    """

    name = "rubric"
    attempts = 1
    ties_when_forced = True

    def __init__(self, task: Task) -> None:
        self.tally = Tally()
        spec = task.spec
        self.identity: dict[str, Any] = {
            "judge": "rubric",
            "rules": RULES,
            "language": spec.language,
            "universal": [criterion.check.model_dump() for criterion in spec.universal_criteria],
            "types": {
                kind.name: [
                    spec.length_of(kind).model_dump(),
                    [criterion.check.model_dump() for criterion in kind.criteria],
                ]
                for kind in spec.post_types
            },
        }

    def replies(self, task: Task, games: list[Game], attempt: int, progress: Progress) -> list[JudgeReply]:
        """The verdict in JSON, with the preference by criterion and the criteria each post misses."""
        started, replies = time.monotonic(), []
        for done, game in enumerate(games, start=1):
            replies.append(_rubric_reply(task, game))
            if done % 50 == 0 or done == len(games):
                progress.update("judging", done, len(games), "games")
        self.tally.seconds += time.monotonic() - started
        return replies


def _rubric_reply(task: Task, game: Game) -> JudgeReply:
    if isinstance(game.brief, Request):
        raise TypeError("the rubric needs a brief of the task, not a request in free words")
    met_a, met_b = (criteria_met(post, game.brief, task.spec) for post in (game.post_a, game.post_b))
    if slow := [why for met in (met_a, met_b) if (why := unscored_reason(met, game.brief, task.spec))]:
        return JudgeReply("", failure=slow[0])
    verdict = {
        "criteria": [{"id": name, "preference": _better(met_a[name], met_b[name])} for name in met_a],
        "why": f"A {_missed(met_a)}; B {_missed(met_b)}.",
        "verdict": _better(sum(met_a.values()), sum(met_b.values())),
    }
    return JudgeReply(json.dumps(verdict))


def _better(first: int, second: int) -> str:
    return "A" if first > second else "B" if second > first else "tie"


def _missed(met: dict[str, bool]) -> str:
    missed = [name.replace("_", " ") for name, is_met in met.items() if not is_met]
    return f"misses {', '.join(missed)}" if missed else "misses nothing"


class ModelJudge:
    """A chat model with the task's judge prompt."""

    ties_when_forced = False

    def __init__(self, task: Task, model: ChatModel, attempts: int) -> None:
        self.model, self.attempts, self.name, self.tally = model, attempts, model.name, model.tally
        self.identity: dict[str, Any] = {
            **model.identity,
            "reading": READING,
            "template": task.sources["judge"],
            "wording": task.wording_fingerprint,
        }

    def asks(self, task: Task, games: list[Game], attempt: int) -> list[Ask]:
        """The request of each game."""
        return [ask_for(self.model, chat(game.prompt(task)), attempt) for game in games]

    def replies(self, task: Task, games: list[Game], attempt: int, progress: Progress) -> list[JudgeReply]:
        """The model's replies as they came."""
        asks = self.asks(task, games, attempt)
        return [
            JudgeReply(reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)
            for reply in self.model.answers(asks, Work(JUDGING, len(games), progress))
        ]


def build_judges(task: Task, profile: Profile, context: Context, may_tie: bool) -> list[Judge]:
    """The profile's judges, in its order."""
    return [JUDGES[type(spec)](spec, task, context, may_tie) for spec in profile.judges]


def _rubric(_spec: RubricJudge, task: Task, _context: Context, _may_tie: bool) -> Judge:
    return Rubric(task)


def _model(spec: InProcessChat | HostedChat, task: Task, context: Context, may_tie: bool) -> Judge:
    return ModelJudge(task, chat_model(spec, context, verdict_schema(task, may_tie)), spec.max_replies_per_row)


JUDGES: dict[type, Callable[[Any, Task, Context, bool], Judge]] = {
    RubricJudge: _rubric,
    InProcessChat: _model,
    HostedChat: _model,
}
"""Kind of spec → function that builds its judge."""


def tallied(judges: list[Judge]) -> Tally:
    """The sum of the judges' tallies."""
    whole = Tally()
    for judge in judges:
        whole.merge(judge.tally)
    return whole
