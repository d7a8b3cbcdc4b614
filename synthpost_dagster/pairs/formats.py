"""Files of other tools, recognised by their keys and read into the columns of `pairs.table`.

Arena-Hard's judgments (https://github.com/lmarena/arena-hard-auto): one object a prompt with `games`, whose `score`
names places such as `A>>B`; in the first game the baseline is A, in the second the model. AlpacaEval's annotations
(https://github.com/tatsu-lab/alpaca_eval): `output_1` is the reference's, `output_2` the model's, and `preference`
lies between 1 and 2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs.files import Columns, columns_of
from synthpost_dagster.pairs.labels import Meaning

ALPACA_COLUMNS = {"instruction": "prompt", "output_1": "baseline", "output_2": "candidate", "preference": "label"}
"""AlpacaEval's column → ours."""
ALPACA_MEANING = Meaning(win="2", loss="1", tie="1.5")


class Format(NamedTuple):
    """The columns of a file and facts of its format; the note is empty for Synthpost's own format."""

    columns: Columns
    note: str = ""
    meaning: Meaning | None = None
    """The meaning of the labels, if the format defines it."""
    candidate: str = ""
    baseline: str = ""
    """Names of the contestants, empty if the file does not name exactly one each."""
    is_candidate_first: tuple[bool, ...] = ()
    """Whether the candidate's post was first, one entry a row, where labels name places."""


def is_arena_hard(record: Mapping[str, Any]) -> bool:
    """Whether an object is one of Arena-Hard's judgments."""
    return isinstance(record.get("games"), list) and "model" in record and ("uid" in record or "question_id" in record)


def arena_hard(path: Path, records: list[dict[str, Any]], posts: tuple[str, ...]) -> Format:
    """Arena-Hard's judgments, a row a game. Raises SpecError where one has no games, or several models are judged."""
    rows, is_first = [], []
    for number, record in enumerate(records, start=1):
        games = record.get("games")
        if not isinstance(games, list) or not all(isinstance(game, Mapping) for game in games) or not games:
            raise SpecError(f"{path}: judgment {number} has no list of games; correct or remove it")
        about = {name: value for name, value in record.items() if name not in {"games", "uid", "question_id"}}
        for place, game in enumerate(games):
            pair_id = record.get("uid", record.get("question_id"))
            rows.append({"pair_id": pair_id, "label": game.get("score"), **about})
            is_first.append(bool(place % 2))
    columns = columns_of(rows, posts)
    columns.setdefault("baseline", [""] * len(rows))
    candidate, baseline = (_only_name(path, columns, name) for name in ("model", "baseline"))
    for name in ("model", "baseline", "judge"):
        columns.pop(name, None)
    note = "Read as Arena-Hard judgments: the baseline is A in the first game of a pair and B in the second."
    return Format(columns, note, None, candidate, baseline, tuple(is_first))


def recognised(path: Path, columns: Columns) -> Format:
    """The columns under our names, where they are AlpacaEval's; else as they are."""
    if not ALPACA_COLUMNS.keys() - {"instruction"} <= columns.keys() or "label" in columns:
        return Format(columns)
    found = {ALPACA_COLUMNS.get(name, name): values for name, values in columns.items()}
    baseline, candidate = (_only_name(path, found, name) for name in ("generator_1", "generator_2"))
    for name in ("generator_1", "generator_2", "annotator", "raw_completion"):
        found.pop(name, None)
    note = "Read as AlpacaEval annotations: output_2 is the candidate, a preference above 1.5 is a win."
    return Format(found, note, ALPACA_MEANING, candidate, baseline)


def _only_name(path: Path, columns: Columns, name: str) -> str:
    """The one value of a column; empty where there is no such column. Raises SpecError where there are several."""
    values = list(dict.fromkeys(value for value in columns.get(name, ()) if value))
    if len(values) > 1:
        some = ", ".join(values[:3])
        raise SpecError(
            f"{path}: {name!r} names {len(values)} models ({some}); keep the comparisons of one pair of them"
        )
    return values[0] if values else ""
