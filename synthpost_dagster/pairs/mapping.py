"""Outcomes that `--map LABEL=OUTCOME` gives to labels which `pairs.labels` does not read."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs.labels import Read, bare
from synthpost_dagster.schemas import OUTCOMES

MAPPED = "--map"
NO_MAP: Mapping[str, str] = MappingProxyType({})


def parse_map(arguments: Iterable[str]) -> dict[str, str]:
    """Label → outcome, of arguments such as `good=win`. The last equals sign separates the two."""
    found: dict[str, str] = {}
    for argument in arguments:
        label, separator, outcome = argument.rpartition("=")
        if not separator or outcome not in OUTCOMES:
            raise SpecError(f"--map {argument!r}: write LABEL=OUTCOME, where OUTCOME is {', '.join(OUTCOMES)}")
        if found.setdefault(label, outcome) != outcome:
            raise SpecError(f"--map gives {label!r} two outcomes ({found[label]}, {outcome}); keep one")
    return found


def read_mapped(raw: str, by_label: Mapping[str, str], is_strict: bool = False) -> Read | None:
    """What `--map` says of a label; None where it does not name it. Quotes, case and spaces may differ."""
    if raw in by_label:
        return Read(by_label[raw], MAPPED)
    if is_strict or not by_label:
        return None
    outcomes = {outcome for label, outcome in by_label.items() if bare(label) and bare(label) == bare(raw)}
    return Read(outcomes.pop(), MAPPED) if len(outcomes) == 1 else None


def check_map(by_label: Mapping[str, str], meaning: Mapping[str | None, str], names_places: bool) -> None:
    """Raises SpecError where the map contradicts the meaning of --win, --loss or --tie, or scores a place."""
    for label, outcome in by_label.items():
        if meaning.get(label, outcome) != outcome:
            raise SpecError(f"--map {label!r} is {outcome}, but --{meaning[label]} names the same label; keep one")
        if names_places and outcome in {"win", "loss"}:
            raise SpecError(
                f"--map {label!r} is {outcome}, but with a known order of the posts labels name places; "
                "map them to tie or unscored"
            )
