"""Tables made with chat models behind the scripted server: synthetic rows, predictions and verdicts."""

from __future__ import annotations

import pandas as pd

from synthpost_dagster.judging.judges import build_judges
from synthpost_dagster.judging.verdicts import BOTH_ORDERS, Judge, contests_of, judge_contests
from synthpost_dagster.llm.chat_models import Context, chat_model
from synthpost_dagster.profiles import load_profile
from synthpost_dagster.profiles.models import HostedChat
from synthpost_dagster.rows.prompts import evaluation_prompts, training_prompts
from synthpost_dagster.rows.synthesis import synthesize
from synthpost_dagster.runtime.progress import SILENT
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.task import Task


def rows_of(task: Task | str, spec: HostedChat, context: Context, target: int) -> pd.DataFrame:
    """Synthetic rows."""
    task = load_task(task) if isinstance(task, str) else task
    return synthesize(
        task, training_prompts(task), chat_model(spec, context), spec.max_replies_per_row, target, None, SILENT
    )


def judge_of(task: Task, spec: HostedChat, context: Context) -> Judge:
    """A profile's judge."""
    profile = load_profile("tiny", task).model_copy(update={"judges": (spec,)})
    return build_judges(task, profile, context, may_tie=True)[0]


def predictions(task: Task, contestant: str, posts: list[str]) -> pd.DataFrame:
    """A table of predictions: these posts for the first evaluation prompts."""
    prompts = evaluation_prompts(task, len(posts))[list(task.spec.prompt_columns)]
    return prompts.assign(contestant=contestant, post=posts, finish_reason="stop", prompt_tokens=1, completion_tokens=1)


def judged(task: Task, judge: Judge, tuned: list[str], others: list[str]) -> pd.DataFrame:
    """Verdicts on tuned posts against the others, which are the posts of both baselines."""
    baselines = pd.concat([predictions(task, name, others) for name in ("base", "prompted")])
    contests = contests_of(task, predictions(task, "tuned", tuned), baselines)
    return judge_contests(task, [judge], contests, BOTH_ORDERS, [SILENT])


def verdicts_of(task: Task | str, spec: HostedChat, context: Context) -> pd.DataFrame:
    """Verdicts on posts of different lengths."""
    task = load_task(task) if isinstance(task, str) else task
    tuned = [f"My post {number}{'!' * (number % 3)}" for number in range(20)]
    others = [f"Other post {number}" for number in range(20)]
    return judged(task, judge_of(task, spec, context), tuned, others)
