"""Reads people's choices from a blind sheet as outcomes of pairs.

The report page exports the sheet; `is_candidate_first` decides which post comes first on it.
"""

import csv
import io
from pathlib import Path

from synthpost_dagster.errors import SpecError
from synthpost_dagster.judging.verdicts import game_outcome, panel_outcome

_CHOICES = {
    **dict.fromkeys(("1", "a", "post 1", "post a", "first"), "A"),
    **dict.fromkeys(("2", "b", "post 2", "post b", "second"), "B"),
    **dict.fromkeys(("tie", "0", "same", "equal", "="), "tie"),
}
MAX_BYTES = 50_000_000


def is_candidate_first(pair_id: str) -> bool:
    """Whether the candidate's post comes first on the sheet: if the id, a hash in hex, is an even number."""
    return int(pair_id, 16) % 2 == 0


def read_labels(path: Path) -> dict[str, str]:
    """Pair id → outcome seen from the candidate, of the pairs with a choice; several people are a panel.

    The file is CSV with the columns `pair_id` and `choice` (1, 2 or tie, or empty). Raises SpecError naming the line.
    """
    outcomes: dict[str, list[str]] = {}
    for line, pair_id, choice in _entries(path):
        if not choice:
            continue
        pick = _CHOICES.get(choice.lower().replace("_", " "))
        if pick is None:
            raise SpecError(f"{path}: line {line}: choice {choice!r} is not 1, 2 or tie; correct it")
        try:
            is_first = is_candidate_first(pair_id)
        except ValueError:
            raise SpecError(
                f"{path}: line {line}: pair_id {pair_id!r} is not one of the sheet's; copy it whole"
            ) from None
        outcomes.setdefault(pair_id, []).append(game_outcome(pick, is_first))
    return {pair_id: panel_outcome(found) for pair_id, found in outcomes.items()}


def _entries(path: Path) -> list[tuple[int, str, str]]:
    """(line, pair id, choice) of each row."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"{path}: larger than {MAX_BYTES:,} bytes; is this the filled sheet?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); name the filled sheet") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not UTF-8; save the sheet as CSV in UTF-8") from None
    first, _, _ = text.partition("\n")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in first and "," not in first else ",")
    names = {(name or "").strip().lower().replace(" ", "_"): name for name in reader.fieldnames or []}
    if missing := {"pair_id", "choice"} - set(names):
        raise SpecError(
            f"{path}: no column {' or '.join(sorted(missing))}; the first line must name pair_id and choice"
        )
    return [
        (reader.line_num, (row[names["pair_id"]] or "").strip().strip("'"), (row[names["choice"]] or "").strip())
        for row in reader
    ]
