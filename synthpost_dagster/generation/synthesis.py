"""Asks the teacher until every stratum has its share of kept rows.

Prompts are asked in rank order. A rejected reply is asked again up to the teacher's number of attempts; a prompt that
stays rejected is replaced by the next of its stratum. Replies that are known already are not asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.artifacts.fingerprint import fingerprint
from synthpost_dagster.generation.chat_models import ChatModel
from synthpost_dagster.inference.generate import chat
from synthpost_dagster.judging.criteria import sentences
from synthpost_dagster.progress import Progress
from synthpost_dagster.rows.prompts import shares, shuffled_strata
from synthpost_dagster.rows.replies import clean_reply, normalised
from synthpost_dagster.schemas import FACTOR_COLUMNS
from synthpost_dagster.tasks.loading import Task

if TYPE_CHECKING:
    import pandas as pd

ROUND_ROWS = 2_048
"""Most replies asked for in one call of the teacher."""
FEWEST_TO_DOUBT = 50
"""Prompts that must be settled before a teacher is given up for rejecting too many."""


class Synthesis(NamedTuple):
    """Rows (schema SyntheticRows) and how many of their replies were asked for now."""

    rows: pd.DataFrame
    asked: int


def synthesize(
    task: Task,
    prompts: pd.DataFrame,
    teacher: ChatModel,
    attempts: int,
    target: int,
    known: pd.DataFrame | None,
    progress: Progress,
) -> Synthesis:
    """Rows for a data size of `target`: each stratum's share of kept rows, as far as the prompts reach.

    `known` holds rows of earlier runs; a row is used again where the key of its reply is the one asked for. A teacher
    whose share of rejected prompts passes the task's limit is not asked further: the gate on that share says why.
    """
    work = _Work(task, prompts, teacher, attempts, target, known)
    asked = 0
    while wanted := work.wanted():
        fresh = [ask for ask in wanted if ask.key not in work.known]
        chats = [chat(ask.row["teacher_prompt"]) for ask in fresh]
        replies = iter(teacher.answer(chats, asked, progress, "synthetic rows") if fresh else ())
        for ask in wanted:
            work.take(ask, work.known.get(ask.key) or next(replies)._asdict())
        asked += len(fresh)
        if work.is_hopeless():
            break
        progress.update("synthetic rows kept", work.kept, work.needed, "rows")
    return Synthesis(work.table(), asked)


class _Ask(NamedTuple):
    """A reply to be had: the prompt's row, the attempt, and the key of all that shapes the reply."""

    row: dict[str, Any]
    attempt: int
    key: str


class _Work:
    """The state of a synthesis: what each stratum has, and which prompt and attempt come next."""

    def __init__(
        self,
        task: Task,
        prompts: pd.DataFrame,
        teacher: ChatModel,
        attempts: int,
        target: int,
        known: pd.DataFrame | None,
    ) -> None:
        self.task, self.teacher, self.attempts = task, teacher, attempts
        self.share = shares(shuffled_strata(task), target)
        self.queues = {
            stratum: group.to_dict("records") for stratum, group in prompts.groupby(["post_type", "tone"], sort=False)
        }
        self.rows: list[dict[str, Any]] = []
        self.retries: list[tuple[dict[str, Any], int]] = []
        self.count = dict.fromkeys(self.share, 0)
        self.next = dict.fromkeys(self.share, 0)
        self.owners: dict[str, str] = {}
        self.known: dict[str, dict[str, Any]] = {}
        self._remember(prompts, [] if known is None else known.to_dict("records"))
        self.given_up = 0
        self.kept, self.needed = 0, sum(min(n, len(self.queues.get(s, []))) for s, n in self.share.items())

    def _remember(self, prompts: pd.DataFrame, rows: list[dict[str, Any]]) -> None:
        """Takes over the replies that are still the ones to be asked for.

        The posts kept among them own their wording, so that a row added later is the duplicate and not they.
        """
        by_id = {row["prompt_id"]: row for row in prompts.to_dict("records")}
        for row in rows:
            prompt = by_id.get(row["prompt_id"])
            if prompt is not None and self._ask(prompt, row["attempt"]).key == row["reply_key"]:
                self.known[row["reply_key"]] = _reply(row)
                if row["status"] == "kept":
                    self.owners.setdefault(normalised(row["post"]), row["reply_key"])

    def wanted(self) -> list[_Ask]:
        """The replies that are missing now, in rank order, as many as one round holds."""
        wanted, self.retries = [(row, attempt) for row, attempt in self.retries], []
        pending = dict.fromkeys(self.share, 0)
        for row, _ in wanted:
            pending[row["post_type"], row["tone"]] += 1
        for stratum, share in self.share.items():
            missing = share - self.count[stratum] - pending[stratum]
            start = self.next[stratum]
            taken = self.queues.get(stratum, [])[start : start + max(0, missing)]
            self.next[stratum] += len(taken)
            wanted += [(row, 0) for row in taken]
        asks = [self._ask(row, attempt) for row, attempt in sorted(wanted, key=lambda item: item[0]["rank"])]
        self.retries += [(ask.row, ask.attempt) for ask in asks[ROUND_ROWS:]]
        return asks[:ROUND_ROWS]

    def take(self, ask: _Ask, reply: dict[str, Any]) -> None:
        """Adds a reply to the rows; a rejected one is asked again while attempts are left."""
        post, reason = clean_reply(reply["text"], reply["finish_reason"])
        if not reason and self.owners.setdefault(normalised(post), ask.key) != ask.key:
            reason = "duplicate"
        stratum = ask.row["post_type"], ask.row["tone"]
        if reason:
            if ask.attempt + 1 < self.attempts:
                self.retries.append((ask.row, ask.attempt + 1))
            else:
                self.given_up += 1
        else:
            self.count[stratum] += 1
            self.kept += 1
        self.rows.append(self._row(ask, reply, post, reason))

    def is_hopeless(self) -> bool:
        """Whether the share of prompts that stayed rejected has passed the task's limit."""
        settled = self.kept + self.given_up
        return settled >= FEWEST_TO_DOUBT and self.given_up > self.task.spec.quality.max_rejected_share * settled

    def table(self) -> pd.DataFrame:
        """All rows, kept and rejected, in rank order."""
        import pandas as pd

        return pd.DataFrame(self.rows).sort_values(["rank", "attempt"]).reset_index(drop=True)

    def _ask(self, row: dict[str, Any], attempt: int) -> _Ask:
        shaped = {
            "teacher": self.teacher.identity,
            "prompt_id": row["prompt_id"],
            "prompt": row["teacher_prompt"],
            "attempt": attempt,
        }
        return _Ask(row, attempt, fingerprint(shaped))

    def _row(self, ask: _Ask, reply: dict[str, Any], post: str, reason: str) -> dict[str, Any]:
        kind = self.task.spec.post_type(ask.row["post_type"])
        length, count = self.task.spec.length_of(kind), len(sentences(post))
        factors = (*FACTOR_COLUMNS, "rank", "stratum_rank")
        return {
            **{name: ask.row[name] for name in factors},
            "attempt": ask.attempt,
            "student_prompt": ask.row["student_prompt"],
            "post": post,
            "status": "rejected" if reason else "kept",
            "reason": reason,
            "is_in_band": length.min_sentences <= count <= (length.max_sentences or count),
            "raw_reply": reply["text"],
            "finish_reason": reply["finish_reason"],
            "prompt_tokens": reply["prompt_tokens"],
            "completion_tokens": reply["completion_tokens"],
            "teacher_model": self.teacher.name,
            "reply_key": ask.key,
        }


def _reply(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "text": row["raw_reply"],
        "finish_reason": row["finish_reason"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
    }
