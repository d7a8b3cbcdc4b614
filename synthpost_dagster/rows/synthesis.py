"""Asks the teacher until every stratum has its share of kept rows.

Prompts are asked in rank order, in rounds. A rejected reply is asked again in the next round, up to the teacher's
number of attempts; a prompt that stays rejected is replaced by the next of its stratum. A post with too few or too
many sentences is rejected as often as the task asks again for it, then kept. Replies are judged in the order
of the asks, whatever order they come in, so that the same replies always make the same table.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from synthpost_dagster.inference.generate import chat
from synthpost_dagster.judging.criteria import sentences
from synthpost_dagster.llm.chat_models import Ask, ChatModel, Work, ask_for
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.rows.leakage import LeakFinder
from synthpost_dagster.rows.near import NearDuplicates
from synthpost_dagster.rows.prompts import shares, shuffled_strata
from synthpost_dagster.rows.replies import NEAR_DUPLICATE, Cleaned, clean_reply
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.schemas import FACTOR_COLUMNS
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.text.normalize import normalised

if TYPE_CHECKING:
    import pandas as pd

ROWS = "synthetic rows"
"""What the journal calls a teacher's replies."""
DUPLICATE = "duplicate"
LEAK = "shows a holdout product"
OUT_OF_BAND = "too few or too many sentences"
"""Why replies are rejected that are good by themselves."""
MOST_ATTEMPTS = 10
"""A profile allows no more attempts a prompt."""
FEWEST_TO_DOUBT = 50
"""Prompts that must be settled before a teacher is given up for rejecting too many."""
PILOT = 64
"""Replies asked for at a time until so many are settled."""
FIRST_REPLIES = 20
"""Replies of a teacher that are looked at before more are asked for."""
MAX_FIRST_REJECTED = 0.8
"""Of the first replies, rejected for one reason; above it, the teacher is not asked further."""


class EarlyStop(NamedTuple):
    """What is done where the first replies are rejected for one reason: `stop` gets the rows so far and raises.

    `is_bounded`: no more than these replies are asked for before they are looked at. A teacher whose replies depend on
    what is asked beside them is asked in whole rounds.
    """

    stop: Callable[[pd.DataFrame], None]
    is_bounded: bool


def synthesize(
    task: Task,
    prompts: pd.DataFrame,
    teacher: ChatModel,
    attempts: int,
    target: int,
    known: pd.DataFrame | None,
    progress: Progress,
    early: EarlyStop | None = None,
) -> pd.DataFrame:
    """Rows (schema SyntheticRows) for a data size of `target`: each stratum's share of kept rows, if prompts suffice.

    `known` holds rows of earlier runs; a reply is used again where its key is the one asked for. Where the column
    `is_settled` says that the row was judged by the present rules, its verdict stays too, so that a row that was kept
    is not pushed out by one that came later. A teacher whose share of rejected prompts passes the task's limit is not
    asked further: the gate on that share says why. With `early`, one whose first replies are nearly all rejected for
    one reason is stopped sooner.
    """
    work = _Work(task, prompts, teacher, attempts, target, known)
    while wanted := work.wanted():
        for part in _parts(wanted, FIRST_REPLIES - len(work.rows) if early and early.is_bounded else 0):
            for _ in _taken(work, part, progress):
                if early and work.is_bad_start():
                    early.stop(work.table())
                if work.is_hopeless():
                    return work.table()
        progress.milestone("synthetic rows kept", work.kept, work.needed, "rows")
    return work.table()


def _parts(items: list[_Item], first: int) -> list[list[_Item]]:
    """The items in one part, or in two where the first of them are to be looked at before the others."""
    return [items[:first], items[first:]] if 0 < first < len(items) else [items]


def _taken(work: _Work, items: list[_Item], progress: Progress) -> Generator[None, None, None]:
    """Asks for the items and adds the replies to the rows, one at a time."""
    # Keys are made as they are needed: those of 17,600 prompts take a second in which nothing would be sent.
    asks: Iterable[_Ask] = map(work.ask, items)
    fresh = len(items)
    if work.known:
        asks = list(asks)
        fresh = sum(ask.ask.key not in work.known for ask in asks)
    sent, taken = itertools.tee(asks)
    unknown = (ask.ask for ask in sent if ask.ask.key not in work.known)
    round_ = Work(ROWS, fresh, progress)
    with contextlib.closing(work.teacher.answers(unknown, round_) if fresh else _nothing()) as replies:
        for ask in taken:
            work.take(ask, work.known.get(ask.ask.key) or _as_known(next(replies)))
            yield


def rows_so_far(
    task: Task,
    prompts: pd.DataFrame,
    teacher: ChatModel,
    attempts: int,
    target: int,
    known: pd.DataFrame | None,
    find: Callable[[Sequence[str]], Mapping[str, Reply]],
) -> pd.DataFrame:
    """The rows that `synthesize` would make of the replies that are there: in `known`, or found by their keys.

    An empty table without columns where there is none.
    """
    work = _Work(task, prompts, teacher, attempts, target, known)
    while not work.is_hopeless():
        asks = [work.ask(item) for item in work.wanted()]
        found = find([ask.ask.key for ask in asks if ask.ask.key not in work.known])
        there = {key: _as_known(reply) for key, reply in found.items()} | work.known
        taken = [ask for ask in asks if ask.ask.key in there]
        for ask in taken:
            work.take(ask, there[ask.ask.key])
        if not taken:
            break
    return work.table()


def first_asks(
    task: Task, prompts: pd.DataFrame, teacher: ChatModel, attempts: int, target: int, known: pd.DataFrame | None
) -> list[Ask]:
    """What `synthesize` would ask for if the first reply to each prompt were kept, less what is known."""
    work = _Work(task, prompts, teacher, attempts, target, known)
    asks = (work.ask(item).ask for item in work.missing())
    return [ask for ask in asks if ask.key not in work.known]


def _nothing() -> Generator[Reply, None, None]:
    yield from ()


def _as_known(reply: Reply) -> dict[str, Any]:
    return {name: getattr(reply, name) for name in ("text", "finish_reason", "prompt_tokens", "completion_tokens")}


class _Item(NamedTuple):
    """A prompt's row, and which attempt at it is to be made."""

    row: dict[str, Any]
    attempt: int


class _Ask(NamedTuple):
    """A reply to be had: the prompt's row, the attempt, and what the teacher is asked."""

    row: dict[str, Any]
    attempt: int
    ask: Ask


class _Memory(NamedTuple):
    """Why each reply that is settled was rejected (empty: it was kept), by its key, and the posts kept so far."""

    reasons: dict[str, str]
    near: NearDuplicates


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
        # Prompts that read alike want replies of their own: each has the attempts of its own number.
        prompts = prompts.assign(twin=prompts.groupby("teacher_prompt").cumcount())
        self.queues = {
            stratum: group.to_dict("records") for stratum, group in prompts.groupby(["post_type", "tone"], sort=False)
        }
        self.rows: list[dict[str, Any]] = []
        self.retries: list[_Item] = []
        self.count = dict.fromkeys(self.share, 0)
        self.next = dict.fromkeys(self.share, 0)
        self.owners: dict[str, str] = {}
        self.leaks = LeakFinder(task, task.spec.quality.leaked_words)
        self.band_misses: Counter[str] = Counter()
        self.known: dict[str, dict[str, Any]] = {}
        self.settled: list[dict[str, Any]] = []
        self._remember(prompts, [] if known is None else known.to_dict("records"))
        self.given_up = 0
        self.kept, self.needed = 0, sum(min(n, len(self.queues.get(s, []))) for s, n in self.share.items())

    def _remember(self, prompts: pd.DataFrame, rows: list[dict[str, Any]]) -> None:
        """Takes over the replies that are still the ones to be asked for, and the verdicts that are settled; a request
        that was refused is made again.
        """
        by_id = {row["prompt_id"]: row for row in prompts.to_dict("records")}
        for row in rows:
            prompt = by_id.get(row["prompt_id"])
            if prompt is None or row["finish_reason"] == "refused":
                continue
            if self.ask(_Item(prompt, row["attempt"])).ask.key == row["reply_key"]:
                self.known[row["reply_key"]] = _reply(row)
                if row.get("is_settled", False):
                    self.settled.append(row)

    @cached_property
    def memory(self) -> _Memory:
        """The verdicts that are settled. Of two posts that repeat each other, which two tables may hold, the second is
        judged again.
        """
        memory = _Memory({}, NearDuplicates(self.task.spec.quality.near_duplicate_jaccard))
        for row in self.settled:
            if row["status"] == "kept":
                owner = self.owners.setdefault(normalised(row["post"]), row["prompt_id"])
                if owner != row["prompt_id"] or memory.near.add_unless_near(owner, row["post"]):
                    continue
            memory.reasons[row["reply_key"]] = row["reason"]
        return memory

    def wanted(self) -> list[_Item]:
        """The next replies to ask for, in rank order: all that are missing, or few until the teacher is trusted."""
        items = self.missing()
        most = PILOT if self.kept + self.given_up < FEWEST_TO_DOUBT else len(items)
        self.retries += items[most:]
        return items[:most]

    def missing(self) -> list[_Item]:
        """The replies that are missing now, in rank order; they count as asked for from now on."""
        wanted, self.retries = self.retries, []
        pending = dict.fromkeys(self.share, 0)
        for row, _ in wanted:
            pending[row["post_type"], row["tone"]] += 1
        for stratum, share in self.share.items():
            missing = share - self.count[stratum] - pending[stratum]
            start = self.next[stratum]
            taken = self.queues.get(stratum, [])[start : start + max(0, missing)]
            self.next[stratum] += len(taken)
            wanted += [_Item(row, 0) for row in taken]
        return sorted(wanted, key=lambda item: item.row["rank"])

    def take(self, ask: _Ask, reply: dict[str, Any]) -> None:
        """Adds a reply to the rows; a rejected one is asked again while attempts are left."""
        cleaned = clean_reply(reply["text"], reply["finish_reason"])
        is_in_band = self._is_in_band(ask.row, cleaned.post)
        reason = self._reason(ask, cleaned, is_in_band)
        stratum = ask.row["post_type"], ask.row["tone"]
        if reason:
            if ask.attempt + 1 < self.attempts:
                self.retries.append(_Item(ask.row, ask.attempt + 1))
            else:
                self.given_up += 1
        else:
            self.count[stratum] += 1
            self.kept += 1
        self.rows.append(self._row(ask, reply, cleaned._replace(reason=reason), is_in_band))

    def _reason(self, ask: _Ask, cleaned: Cleaned, is_in_band: bool) -> str:
        """Why a reply is rejected, or an empty string."""
        settled = self.memory.reasons.get(ask.ask.key)
        if settled is not None:
            self.band_misses[ask.row["prompt_id"]] += settled == OUT_OF_BAND
            return settled
        return (
            cleaned.reason
            or (LEAK if self.leaks.find(cleaned.post, ask.row["product"]) else "")
            or self._band_reason(ask, is_in_band)
            or self._repetition(ask.row["prompt_id"], cleaned.post)
        )

    def _is_in_band(self, row: dict[str, Any], post: str) -> bool:
        """Whether the post has as many sentences as its length asks for."""
        length, count = (
            self.task.spec.length_of(self.task.spec.post_type(row["post_type"])),
            len(sentences(post, self.task.spec.language)),
        )
        return length.min_sentences <= count <= (length.max_sentences or count)

    def _band_reason(self, ask: _Ask, is_in_band: bool) -> str:
        """Why a post of the wrong length is asked again; empty once it has been asked often enough."""
        misses = self.band_misses[ask.row["prompt_id"]]
        if is_in_band or misses >= self.task.spec.quality.band_retries or ask.attempt + 1 >= self.attempts:
            return ""
        self.band_misses[ask.row["prompt_id"]] += 1
        return OUT_OF_BAND

    def _repetition(self, prompt_id: str, post: str) -> str:
        """Whether the post repeats, or nearly repeats, one of another prompt; the prompt owns its wording if not."""
        if self.owners.get(normalised(post), prompt_id) != prompt_id:
            return DUPLICATE
        if self.memory.near.add_unless_near(prompt_id, post):
            return NEAR_DUPLICATE
        self.owners[normalised(post)] = prompt_id
        return ""

    def is_hopeless(self) -> bool:
        """Whether the share of prompts that stayed rejected has passed the task's limit."""
        settled = self.kept + self.given_up
        return settled >= FEWEST_TO_DOUBT and self.given_up > self.task.spec.quality.max_rejected_share * settled

    def is_bad_start(self) -> bool:
        """Whether the first replies are there, and too many of them were rejected for one reason.

        A post of the wrong length counts not: it is kept once it has been asked for often enough.
        """
        if len(self.rows) != FIRST_REPLIES:
            return False
        counts = Counter(row["reason"] for row in self.rows if row["reason"] not in ("", OUT_OF_BAND))
        return max(counts.values(), default=0) > MAX_FIRST_REJECTED * FIRST_REPLIES

    def table(self) -> pd.DataFrame:
        """All rows, kept and rejected, in rank order."""
        import pandas as pd

        rows = pd.DataFrame(self.rows)
        return rows.sort_values(["rank", "attempt"]).reset_index(drop=True) if len(rows) else rows

    def ask(self, item: _Item) -> _Ask:
        """What the teacher is asked, under the key of all that shapes the reply."""
        number = item.row["twin"] * MOST_ATTEMPTS + item.attempt
        return _Ask(*item, ask_for(self.teacher, chat(item.row["teacher_prompt"]), number))

    def _row(self, ask: _Ask, reply: dict[str, Any], cleaned: Cleaned, is_in_band: bool) -> dict[str, Any]:
        factors = (*FACTOR_COLUMNS, "rank", "stratum_rank")
        return {
            **{name: ask.row[name] for name in factors},
            "attempt": ask.attempt,
            "student_prompt": ask.row["student_prompt"],
            "post": cleaned.post,
            "status": "rejected" if cleaned.reason else "kept",
            "reason": cleaned.reason,
            "stripped": cleaned.stripped,
            "is_in_band": is_in_band,
            "raw_reply": reply["text"],
            "finish_reason": reply["finish_reason"],
            "prompt_tokens": reply["prompt_tokens"],
            "completion_tokens": reply["completion_tokens"],
            "teacher_model": self.teacher.name,
            "reply_key": ask.ask.key,
        }


def _reply(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "text": row["raw_reply"],
        "finish_reason": row["finish_reason"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
    }
