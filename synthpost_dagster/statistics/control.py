"""Findings about the judge from controls: the untuned model against itself, and posts that must lose."""

from typing import Literal, NamedTuple

from synthpost_dagster.statistics.ratio import CONFIDENCE, Counts, Ratio, win_ratio

CERTAIN = 0.999
"""Confidence of the interval outside of which the judge is not trusted."""

Finding = Literal["good", "warning", "untrusted", "undecided"]
"""undecided: no comparison was won or lost, for example because the judge always picks one position."""


class Control(NamedTuple):
    """The finding of a control, and its win ratio at 95 % and 99.9 % confidence."""

    finding: Finding
    ratio: Ratio
    certain: Ratio


def control_verdict(counts: Counts) -> Control:
    """The untuned model against itself, whose ratio should be 1: good if the 95 % interval contains 1, untrusted if the
    99.9 % interval does not, else a warning. A fair judge gets a warning in at most 5 % of runs.

    A judge that guesses passes; the null controls and the order consistency detect it. If the judge is untrusted, the
    report names no winner.
    """
    ratio, certain = win_ratio(counts, CONFIDENCE), win_ratio(counts, CERTAIN)
    if counts.wins + counts.losses == 0:
        return Control("undecided", ratio, certain)
    if not certain.low <= 1 <= certain.high:
        return Control("untrusted", ratio, certain)
    return Control("good" if ratio.low <= 1 <= ratio.high else "warning", ratio, certain)


def null_verdict(counts: Counts) -> Control:
    """Posts that must lose (empty, or from other prompts), counted from their side: good if the 95 % interval is
    below 1, untrusted if the 99.9 % interval is above 1, else a warning.
    """
    ratio, certain = win_ratio(counts, CONFIDENCE), win_ratio(counts, CERTAIN)
    if counts.wins + counts.losses == 0:
        return Control("undecided", ratio, certain)
    if certain.low > 1:
        return Control("untrusted", ratio, certain)
    return Control("good" if ratio.high < 1 else "warning", ratio, certain)
