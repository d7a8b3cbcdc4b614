"""What comparisons with a known answer say about the judge: the untuned model against itself, and
posts that must lose.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from synthpost_dagster.statistics.ratio import CONFIDENCE, Counts, Ratio, win_ratio

CERTAIN = 0.999
"""Outside the interval at this confidence the judge is not to be trusted."""

Finding = Literal["good", "warning", "untrusted", "undecided"]
"""undecided: no pair was won or lost, which clears nobody; a judge that always picks one slot comes out so."""


class Control(NamedTuple):
    """What a comparison with a known answer says, and its win ratio at both confidences."""

    finding: Finding
    ratio: Ratio
    certain: Ratio


def control_verdict(counts: Counts) -> Control:
    """The untuned model against itself, which must come out near 1: good within 95 %, else a warning; untrusted
    outside 99.9 %, and then the report shows no winner. A fair judge gets a warning in at most 5 % of runs.

    It tests that nothing tells the sides apart but the posts. A judge that guesses wins and loses equally often in both
    orders and passes: that a judge sees anything is what the nulls and its order consistency show.
    """
    ratio, certain = win_ratio(counts, CONFIDENCE), win_ratio(counts, CERTAIN)
    if counts.wins + counts.losses == 0:
        return Control("undecided", ratio, certain)
    if not certain.low <= 1 <= certain.high:
        return Control("untrusted", ratio, certain)
    return Control("good" if ratio.low <= 1 <= ratio.high else "warning", ratio, certain)


def null_verdict(counts: Counts) -> Control:
    """Posts that must lose (empty, or dealt to the wrong prompts), counted from their side: good where the 95 %
    interval lies under 1, untrusted where the 99.9 % interval does not reach down to 1, else a warning.
    """
    ratio, certain = win_ratio(counts, CONFIDENCE), win_ratio(counts, CERTAIN)
    if counts.wins + counts.losses == 0:
        return Control("undecided", ratio, certain)
    if certain.low > 1:
        return Control("untrusted", ratio, certain)
    return Control("good" if ratio.high < 1 else "warning", ratio, certain)
