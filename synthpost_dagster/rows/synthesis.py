"""Requests replies from the teacher until every stratum has its share of kept rows.

Prompts are sent in rank order, in rounds. A rejected reply is requested again in the next round, up to the teacher's
`max_replies_per_row`; a prompt that stays rejected is replaced by the next one of its stratum. Replies are judged in
the order of the requests (`rows.rejection`), so that the same replies always make the same table.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.inference.generate import chat
from synthpost_dagster.llm.chat_models import Ask, ChatModel, Work, ask_for
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.rows.prompts import shares, strata_in
from synthpost_dagster.rows.rejection import OUT_OF_BAND, Rejection
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.tasks.task import Stratum, Task

if TYPE_CHECKING:
    import pandas as pd

ROWS = "synthetic rows"
"""Purpose of a teacher's replies in the journal."""
MAX_REPLIES = 10
"""Limit of `max_replies_per_row` in a profile."""
MIN_PROMPTS_TO_STOP = 50
"""Prompts with a final result before a teacher is stopped for too many rejections."""
PILOT = 64
"""Replies per round before that."""
FIRST_REPLIES = 20
MAX_FIRST_REJECTED = 0.8
"""Share of FIRST_REPLIES rejected for one reason; above it the teacher is stopped."""


class EarlyStop(NamedTuple):
    """What happens after a bad start: `stop` gets the rows so far and raises.

    `is_bounded`: the first replies are judged before more are requested. A teacher in this process, whose replies
    depend on their batch, gets whole rounds instead.
    """

    stop: Callable[[pd.DataFrame], None]
    is_bounded: bool


def synthesize(
    task: Task,
    prompts: pd.DataFrame,
    teacher: ChatModel,
    max_replies: int,
    target: int,
    known: pd.DataFrame | None,
    progress: Progress,
    early: EarlyStop | None = None,
) -> pd.DataFrame:
    """Rows (schema SyntheticRows) for a data size of `target`: each stratum's share of kept rows, if prompts suffice.

    `known` has rows of earlier runs. Their replies are reused if their key is unchanged. If the column `is_settled` is
    true, the row was checked under the present rules and its result stays. A teacher whose share of rejected
    prompts exceeds the task's limit is stopped; the gate on that share then fails.
    """
    work = _Work(task, prompts, teacher, max_replies, target, known)
    while wanted := work.wanted():
        first = FIRST_REPLIES - len(work.rows) if early and early.is_bounded else 0
        for part in [wanted[:first], wanted[first:]] if 0 < first < len(wanted) else [wanted]:
            for _ in _taken(work, part, progress):
                if early and work.is_bad_start():
                    early.stop(work.table())
                if work.is_hopeless():
                    return work.table()
        progress.milestone("synthetic rows kept", work.kept, work.needed, "rows")
    return work.table()


def _taken(work: _Work, items: list[_Item], progress: Progress) -> Generator[None, None, None]:
    """Requests the replies and adds them to the rows, one at a time."""
    # Keys are computed as needed: those of 17,600 prompts take a second in which nothing would be sent.
    asks: Iterable[Ask] = map(work.ask, items)
    fresh = len(items)
    if work.known:
        asks = list(asks)
        fresh = sum(ask.key not in work.known for ask in asks)
    sent, taken = itertools.tee(asks)
    unknown = (ask for ask in sent if ask.key not in work.known)
    round_ = Work(ROWS, fresh, progress)
    with contextlib.ExitStack() as stack:
        replies = stack.enter_context(contextlib.closing(work.teacher.answers(unknown, round_))) if fresh else iter(())
        for item, ask in zip(items, taken, strict=True):
            work.take(item, ask.key, work.known.get(ask.key) or _Reply.of(next(replies)))
            yield


def rows_so_far(
    task: Task,
    prompts: pd.DataFrame,
    teacher: ChatModel,
    max_replies: int,
    target: int,
    known: pd.DataFrame | None,
    find: Callable[[Sequence[str]], Mapping[str, Reply]],
) -> pd.DataFrame:
    """The rows that `synthesize` would make of the replies in `known` and those that `find` returns by their keys.

    An empty table without columns if there is none.
    """
    work = _Work(task, prompts, teacher, max_replies, target, known)
    while not work.is_hopeless():
        keys = {work.ask(item).key: item for item in work.wanted()}
        found = find([key for key in keys if key not in work.known])
        replies = {key: _Reply.of(reply) for key, reply in found.items()} | work.known
        taken = [key for key in keys if key in replies]
        for key in taken:
            work.take(keys[key], key, replies[key])
        if not taken:
            break
    return work.table()


def first_asks(
    task: Task, prompts: pd.DataFrame, teacher: ChatModel, max_replies: int, target: int, known: pd.DataFrame | None
) -> list[Ask]:
    """The requests of `synthesize` if the first reply to each prompt is kept, without those in `known`."""
    work = _Work(task, prompts, teacher, max_replies, target, known)
    asks = (work.ask(item) for item in work.missing())
    return [ask for ask in asks if ask.key not in work.known]


class _Reply(NamedTuple):
    """A reply, from the teacher or from an earlier table."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, reply: Reply) -> _Reply:
        return cls(reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)


class _Item(NamedTuple):
    """A prompt's row and the number of its next attempt."""

    row: dict[str, Any]
    attempt: int


class _Work:
    """The state of a synthesis: what each stratum has, and which prompt and attempt come next."""

    def __init__(
        self,
        task: Task,
        prompts: pd.DataFrame,
        teacher: ChatModel,
        max_replies: int,
        target: int,
        known: pd.DataFrame | None,
    ) -> None:
        self.max_rejected_share = task.spec.quality.max_rejected_share
        self.teacher, self.max_replies = teacher, max_replies
        self.task, self.share = task, shares(task.capacities("train"), target)
        # Prompts with the same text get different replies: each numbers its attempts from its own start.
        prompts = prompts.assign(repetition=prompts.groupby("teacher_prompt").cumcount())
        self.queues: dict[Stratum, list[dict[str, Any]]] = {}
        for stratum, row in zip(strata_in(task, prompts), prompts.to_dict("records"), strict=True):
            self.queues.setdefault(stratum, []).append(row | {"stratum": stratum})
        self.rows: list[dict[str, Any]] = []
        self.retries: list[_Item] = []
        self.count = dict.fromkeys(self.share, 0)
        self.next = dict.fromkeys(self.share, 0)
        self.rejection = Rejection(task, max_replies)
        self.known: dict[str, _Reply] = {}
        self._remember(prompts, [] if known is None else known.to_dict("records"))
        self.given_up = 0
        self.kept, self.needed = 0, sum(min(n, len(self.queues.get(s, []))) for s, n in self.share.items())

    def _remember(self, prompts: pd.DataFrame, rows: list[dict[str, Any]]) -> None:
        """Reuses replies whose key is unchanged, and settled results. Refused requests are sent again."""
        by_id = {row["prompt_id"]: row for row in prompts.to_dict("records")}
        for row in rows:
            prompt = by_id.get(row["prompt_id"])
            if prompt is None or row["finish_reason"] == "refused":
                continue
            if self.ask(_Item(prompt, row["attempt"])).key == row["reply_key"]:
                names = ("raw_reply", "finish_reason", "prompt_tokens", "completion_tokens")
                self.known[row["reply_key"]] = _Reply._make(row[name] for name in names)
                if row.get("is_settled", False):
                    self.rejection.settled.append(row)

    def wanted(self) -> list[_Item]:
        """The next replies to request, in rank order: all that are missing, or PILOT until the teacher is trusted."""
        items = self.missing()
        most = PILOT if self.kept + self.given_up < MIN_PROMPTS_TO_STOP else len(items)
        self.retries += items[most:]
        return items[:most]

    def missing(self) -> list[_Item]:
        """The missing replies, in rank order; from now on they count as requested."""
        wanted, self.retries = self.retries, []
        pending = Counter(row["stratum"] for row, _ in wanted)
        for stratum, share in self.share.items():
            missing = share - self.count[stratum] - pending[stratum]
            start = self.next[stratum]
            taken = self.queues.get(stratum, [])[start : start + max(0, missing)]
            self.next[stratum] += len(taken)
            wanted += [_Item(row, 0) for row in taken]
        return sorted(wanted, key=lambda item: item.row["rank"])

    def take(self, item: _Item, key: str, reply: _Reply) -> None:
        """Adds a reply to the rows; a rejected one is requested again while attempts are left."""
        row, attempt = item
        cleaned, is_in_band = self.rejection.judge(row, attempt, key, reply.text, reply.finish_reason)
        if not cleaned.reason:
            self.count[row["stratum"]] += 1
            self.kept += 1
        elif attempt + 1 < self.max_replies:
            self.retries.append(_Item(row, attempt + 1))
        else:
            self.given_up += 1
        self.rows.append(
            {
                **{name: row[name] for name in (*self.task.spec.prompt_columns, "rank", "stratum_rank")},
                "attempt": attempt,
                "student_prompt": row["student_prompt"],
                "post": cleaned.post,
                "status": "rejected" if cleaned.reason else "kept",
                "reason": cleaned.reason,
                "stripped": cleaned.stripped,
                "is_in_band": is_in_band,
                "raw_reply": reply.text,
                "finish_reason": reply.finish_reason,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "teacher_model": self.teacher.name,
                "reply_key": key,
            }
        )

    def is_hopeless(self) -> bool:
        """Whether the share of prompts that stayed rejected has passed the task's limit."""
        done = self.kept + self.given_up
        return done >= MIN_PROMPTS_TO_STOP and self.given_up > self.max_rejected_share * done

    def is_bad_start(self) -> bool:
        """Whether too many of the first replies were rejected for one reason.

        A wrong length does not count: such posts are kept after `band_retries`.
        """
        if len(self.rows) != FIRST_REPLIES:
            return False
        reasons = (row["reason"] for row in self.rows if not row["reason"].startswith(OUT_OF_BAND))
        counts = Counter(filter(None, reasons))
        return max(counts.values(), default=0) > MAX_FIRST_REJECTED * FIRST_REPLIES

    def table(self) -> pd.DataFrame:
        """All rows, kept and rejected, in rank order."""
        import pandas as pd

        rows = pd.DataFrame(self.rows)
        return rows.sort_values(["rank", "attempt"]).reset_index(drop=True) if len(rows) else rows

    def ask(self, item: _Item) -> Ask:
        """The request for an item, under the key of everything that shapes the reply."""
        number = item.row["repetition"] * MAX_REPLIES + item.attempt
        return ask_for(self.teacher, chat(item.row["teacher_prompt"]), number)
