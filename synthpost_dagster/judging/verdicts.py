"""Games and pairs: what a judge is asked, reading its reply, and what two games say about a pair."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from synthpost_dagster.generation.chat_models import Tally
from synthpost_dagster.progress import Progress
from synthpost_dagster.schemas import FACTOR_COLUMNS
from synthpost_dagster.tasks.loading import Task
from synthpost_dagster.tasks.prompting import Brief, judge_prompt, short_hash

if TYPE_CHECKING:
    import pandas as pd

_OPENING = re.compile(r"\{")
_DECODER = json.JSONDecoder(object_pairs_hook=list)
_NOT_SAID = {
    "length": "reply cut off",
    "content_filter": "reply held back by the endpoint's filter",
    "invalid": "reply against the schema",
    "refused": "refused by the endpoint",
}
_PICKS = {"a": "A", "b": "B", "tie": "tie"}


class Game(NamedTuple):
    """Two posts in neutral slots, written for one brief."""

    brief: Brief
    post_a: str
    post_b: str

    def prompt(self, task: Task) -> str:
        """The judge's prompt."""
        return judge_prompt(task, self.brief, self.post_a, self.post_b)


class Said(NamedTuple):
    """A judge's raw reply to a game, and why it ended (`schemas.FINISH_REASONS`)."""

    text: str
    finish_reason: str = "stop"


class Pick(NamedTuple):
    """What a reply says: `A`, `B`, `tie`, or nothing with the reason why."""

    pick: str
    reason: str


class Judge(Protocol):
    """Plays games. `identity` is all that shapes a verdict besides the game; `name` is what tables call it."""

    name: str
    attempts: int
    identity: dict[str, Any]
    tally: Tally

    def replies(self, task: Task, games: list[Game], attempt: int, progress: Progress) -> list[Said]:
        """The raw reply to each game, in order."""


class Played(NamedTuple):
    """A game with its last reply."""

    pick: Pick
    raw_reply: str
    attempts: int


def read_reply(said: Said) -> Pick:
    """The last well-formed verdict in a reply: a JSON object whose `verdict` is A, B or tie, in any case.

    Anything else is unscored, with the reason: a reply is never guessed at, and one that was cut off, held back or
    refused says nothing.
    """
    raw = said.text
    if said.finish_reason in _NOT_SAID:
        return Pick("", _NOT_SAID[said.finish_reason])
    if not raw.strip():
        return Pick("", "empty reply")
    for place in reversed([match.start() for match in _OPENING.finditer(raw)]):
        try:
            found, _ = _DECODER.raw_decode(raw, place)
        except (ValueError, RecursionError):
            continue
        words = {str(value).strip().strip("\"'").lower() for key, value in found if str(key).lower() == "verdict"}
        if len(words) > 1:
            return Pick("", "two verdicts in one reply")
        if words and (pick := _PICKS.get(words.pop())):
            return Pick(pick, "")
    return Pick("", "no verdict in the reply")


def play(task: Task, judge: Judge, games: list[Game], progress: Progress) -> list[Played]:
    """Every game played; one whose reply cannot be read is asked again up to the judge's number of attempts."""
    played: dict[int, Played] = {}
    open_games = list(range(len(games)))
    for attempt in range(judge.attempts):
        if not open_games:
            break
        replies = judge.replies(task, [games[index] for index in open_games], attempt, progress)
        for index, said in zip(open_games, replies, strict=True):
            played[index] = Played(read_reply(said), said.text, attempt + 1)
        open_games = [index for index in open_games if not played[index].pick.pick]
    return [played[index] for index in range(len(games))]


def game_outcome(pick: str, is_tuned_first: bool) -> str:
    """win, loss, tie or unscored, seen from the tuned post."""
    if pick in ("", "tie"):
        return pick or "unscored"
    return "win" if (pick == "A") == is_tuned_first else "loss"


def pair_outcome(first: str, second: str) -> str:
    """A pair from its two games: unscored if either is, a win or loss if both agree on it, else a tie."""
    if "unscored" in (first, second):
        return "unscored"
    return first if first == second else "tie"


def judge_pairs(
    task: Task,
    judge: Judge,
    briefs: dict[str, Brief],
    tuned: pd.DataFrame,
    baselines: pd.DataFrame,
    progress: Progress,
) -> pd.DataFrame:
    """Every tuned post against both baselines' posts of its prompt, in both orders (schema Verdicts).

    `tuned` and `baselines` follow the schema Predictions.
    """
    import pandas as pd

    posts = tuned.set_index("prompt_id")["post"].to_dict()
    setup: list[dict[str, Any]] = []
    games: list[Game] = []
    for row in baselines.itertuples():
        mine, other = posts[row.prompt_id], row.post
        for is_tuned_first in (True, False):
            games.append(Game(briefs[row.prompt_id], *((mine, other) if is_tuned_first else (other, mine))))
            setup.append(
                {
                    **{name: getattr(row, name) for name in FACTOR_COLUMNS},
                    "pair_id": short_hash(row.prompt_id, row.contestant, mine, other),
                    "opponent": row.contestant,
                    "is_tuned_first": is_tuned_first,
                    "tuned_words": len(mine.split()),
                    "opponent_words": len(other.split()),
                }
            )
    played = play(task, judge, games, progress)
    return pd.DataFrame(
        {**row, **_verdict(task, judge, game, result, row["is_tuned_first"])}
        for row, game, result in zip(setup, games, played, strict=True)
    )


def _verdict(task: Task, judge: Judge, game: Game, played: Played, is_tuned_first: bool) -> dict[str, Any]:
    return {
        "pick": played.pick.pick,
        "outcome": game_outcome(played.pick.pick, is_tuned_first),
        "reason": played.pick.reason,
        "raw_reply": played.raw_reply,
        "attempts": played.attempts,
        "judge": judge.name,
        "prompt_fingerprint": short_hash(game.prompt(task)),
    }


def pairs(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row a pair with its `outcome`, from the two rows of its games."""
    combine: Callable[[Any], str] = lambda outcomes: pair_outcome(*outcomes)  # noqa: E731
    keys = [*FACTOR_COLUMNS, "pair_id", "opponent"]
    return verdicts.groupby(keys, sort=False)["outcome"].agg(combine).reset_index()
