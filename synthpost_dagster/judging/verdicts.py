"""Games and pairs: the games of each contest, the judges' verdicts, and the outcome of each pair.

All figures take a panel of several judges as one judge: the majority decides each game. Replies are read in
`judging.replies`; judges are built in `judging.judges`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from synthpost_dagster.judging.imitations import imitates
from synthpost_dagster.judging.replies import JudgeReply, Verdict, read_reply
from synthpost_dagster.llm.chat_models import Tally
from synthpost_dagster.runtime.progress import Progress
from synthpost_dagster.schemas import FACTOR_COLUMNS
from synthpost_dagster.statistics.games import pair_outcome
from synthpost_dagster.tasks.prompting import Brief, judge_prompt, request_prompt, short_hash
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.text.normalize import word_count

if TYPE_CHECKING:
    import pandas as pd


class Rules(NamedTuple):
    """How games are played: in which orders (True: the candidate's post is A), and whether a judge may say tie."""

    orders: tuple[bool, ...]
    may_tie: bool


BOTH_ORDERS = Rules((True, False), may_tie=True)
STUDY_MODE = Rules((False,), may_tie=False)
"""As in the study: one order, the baseline first, and no ties."""


class Request(NamedTuple):
    """A prompt in free words, of posts that were written elsewhere."""

    text: str


class Game(NamedTuple):
    """Two posts as A and B, written for one brief."""

    brief: Brief | Request
    post_a: str
    post_b: str
    may_tie: bool = True

    def prompt(self, task: Task) -> str:
        """The judge's prompt."""
        if isinstance(self.brief, Request):
            return request_prompt(self.brief.text, self.post_a, self.post_b, self.may_tie)
        return judge_prompt(task, self.brief, self.post_a, self.post_b, self.may_tie)


class Judge(Protocol):
    """Plays games. `identity` is everything that shapes a verdict besides the game; `name` is its name in tables;
    `ties_when_forced`: whether it may say tie even if the rules allow none.
    """

    name: str
    ties_when_forced: bool
    attempts: int
    identity: dict[str, Any]
    tally: Tally

    def replies(self, task: Task, games: list[Game], attempt: int, progress: Progress) -> list[JudgeReply]:
        """The raw reply to each game, in order."""


class PlayedGame(NamedTuple):
    """A game with its last reply."""

    verdict: Verdict
    reply: JudgeReply
    attempts: int


class Contest(NamedTuple):
    """A candidate's post against an opponent's; `labels` are the columns that say what they were written for."""

    labels: dict[str, str]
    brief: Brief | Request
    opponent: str
    candidate_post: str
    opponent_post: str
    pair_id: str


def contest(labels: dict[str, str], brief: Brief, opponent: str, candidate_post: str, opponent_post: str) -> Contest:
    """A contest under the id of prompt, opponent and both posts."""
    pair_id = short_hash(labels["prompt_id"], opponent, candidate_post, opponent_post)
    return Contest(labels, brief, opponent, candidate_post, opponent_post, pair_id)


def play(task: Task, judge: Judge, games: list[Game], progress: Progress) -> list[PlayedGame]:
    """Plays every game; one without a verdict is requested again up to the judge's number of attempts."""
    played: dict[int, PlayedGame] = {}
    open_games = list(range(len(games)))
    for attempt in range(judge.attempts):
        if not open_games:
            break
        replies = judge.replies(task, [games[index] for index in open_games], attempt, progress)
        for index, reply in zip(open_games, replies, strict=True):
            game = games[index]
            may_tie = game.may_tie or judge.ties_when_forced
            posts = (game.post_a, game.post_b)
            verdict = Verdict("", reply.failure) if reply.failure else read_reply(reply, posts, may_tie)
            played[index] = PlayedGame(verdict, reply, attempt + 1)
        open_games = [index for index in open_games if not played[index].verdict.pick]
    return [played[index] for index in range(len(games))]


def game_outcome(pick: str, is_candidate_first: bool) -> str:
    """win, loss, tie or unscored, seen from the candidate."""
    if pick in ("", "tie"):
        return pick or "unscored"
    return "win" if (pick == "A") == is_candidate_first else "loss"


def panel_outcome(outcomes: Sequence[str]) -> str:
    """A panel's game: the majority of the scored verdicts, else a tie; unscored unless more than half are scored."""
    scored = [outcome for outcome in outcomes if outcome != "unscored"]
    if 2 * len(scored) <= len(outcomes):
        return "unscored"
    outcome, votes = Counter(scored).most_common(1)[0]
    return outcome if 2 * votes > len(scored) else "tie"


def contests_of(briefs: dict[str, Brief], tuned: pd.DataFrame, baselines: pd.DataFrame) -> list[Contest]:
    """The tuned post of each prompt against each baseline's (both of schema Predictions)."""
    posts = tuned.set_index("prompt_id")["post"].to_dict()
    return [
        contest(labels_of(row), briefs[row.prompt_id], row.contestant, posts[row.prompt_id], row.post)
        for row in baselines.itertuples()
    ]


def labels_of(row: Any) -> dict[str, str]:
    """The factors that a row's post was written for."""
    return {name: getattr(row, name) for name in FACTOR_COLUMNS}


def judge_contests(
    task: Task, judges: Sequence[Judge], contests: Sequence[Contest], rules: Rules, progresses: Sequence[Progress]
) -> pd.DataFrame:
    """Every contest played by every judge in every order of the rules (schema Games, less the columns labels lack).

    `progresses` has one entry per judge.
    """
    import pandas as pd

    games = games_between(contests, rules)
    setup = [(contest, is_first) for contest in contests for is_first in rules.orders]
    prints = [short_hash(game.prompt(task)) for game in games]
    flags = {
        contest.pair_id: imitates(contest.candidate_post) or imitates(contest.opponent_post) for contest in contests
    }
    rows = [
        {
            **contest.labels,
            "pair_id": contest.pair_id,
            "opponent": contest.opponent,
            "is_candidate_first": is_first,
            **_verdict(played, is_first),
            "judge": judge.name,
            "prompt_fingerprint": fingerprint,
            "candidate_words": word_count(contest.candidate_post),
            "opponent_words": word_count(contest.opponent_post),
            "has_imitation": flags[contest.pair_id],
        }
        for judge, progress in zip(judges, progresses, strict=True)
        for (contest, is_first), fingerprint, played in zip(
            setup, prints, play(task, judge, games, progress), strict=True
        )
    ]
    return pd.DataFrame(rows)


def games_between(contests: Sequence[Contest], rules: Rules) -> list[Game]:
    """The games of each contest, one in each order of the rules."""
    return [
        Game(one.brief, *swap_order(one.candidate_post, one.opponent_post, is_first), rules.may_tie)
        for one in contests
        for is_first in rules.orders
    ]


def swap_order(candidate_post: str, opponent_post: str, is_candidate_first: bool) -> tuple[str, str]:
    """The posts as A and B of a game: the candidate's first, or swapped."""
    return (candidate_post, opponent_post) if is_candidate_first else (opponent_post, candidate_post)


def _verdict(played: PlayedGame, is_candidate_first: bool) -> dict[str, Any]:
    return {
        "pick": played.verdict.pick,
        "outcome": game_outcome(played.verdict.pick, is_candidate_first),
        "reason": played.verdict.reason,
        "why": played.verdict.why,
        "criteria": json.dumps(played.verdict.criteria),
        "raw_reply": played.reply.text,
        "attempts": played.attempts,
        "prompt_tokens": played.reply.prompt_tokens,
        "completion_tokens": played.reply.completion_tokens,
    }


def panel_games(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The panel's games, one row per pair and order, with the majority's outcome.

    `verdicts` follows the schema Games; the columns of single replies are left out.
    """
    keys = ["pair_id", "is_candidate_first"]
    columns = [*FACTOR_COLUMNS, "opponent", "candidate_words", "opponent_words"]
    games = verdicts.drop_duplicates(keys)[keys + [name for name in columns if name in verdicts]]
    if len(games) == len(verdicts):  # a single judge
        return games.assign(outcome=verdicts["outcome"])
    decided = verdicts.groupby(keys, sort=False)["outcome"].agg(list).map(panel_outcome)
    return games.assign(outcome=decided.reindex(list(zip(games[keys[0]], games[keys[1]], strict=True))).to_list())


def pairs(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row per pair with its `outcome`, from the panel's games."""
    games = panel_games(verdicts).drop(columns=["candidate_words", "opponent_words"], errors="ignore")
    outcomes: dict[str, list[str]] = {}
    for pair_id, outcome in zip(games["pair_id"], games["outcome"], strict=True):
        outcomes.setdefault(pair_id, []).append(outcome)
    found = games.drop_duplicates("pair_id").drop(columns="is_candidate_first")
    return found.assign(outcome=[pair_outcome(outcomes[pair_id]) for pair_id in found["pair_id"]]).reset_index(
        drop=True
    )
