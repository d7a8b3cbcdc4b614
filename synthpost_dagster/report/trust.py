"""The trust card in words: who judged, whether the judge follows places or length, its tests, and what people say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.report.headline import CONTROL_ANSWERS, CONTROL_MEANINGS, CONTROL_NAMES, LEFT_OUT, certain_line
from synthpost_dagster.report.texts import counted, number_text, percent_text, points_text, ratio_text, signed_text
from synthpost_dagster.statistics.order import LEAST_CONSISTENCY

if TYPE_CHECKING:
    from synthpost_dagster.report.data import ControlResult, JudgeFigures, LengthEffect, ReportData
    from synthpost_dagster.statistics.agreement import Agreement
    from synthpost_dagster.statistics.order import OrderFigures

SLIGHT_LENGTH_COEFFICIENT = 0.25
"""Up to this, to either side, a post one standard deviation longer has at most 1.2 times the odds."""
_STUDY_MODE = "not measured: study mode plays one order"
_MARKS = {"good": "good", "warning": "warning", "untrusted": "bad", "undecided": "undecided"}


class Line(NamedTuple):
    """One line of the card; `mark` is empty, good, warning, undecided or bad."""

    term: str
    value: str
    note: str = ""
    mark: str = ""


class Card(NamedTuple):
    """Some lines under one title."""

    title: str
    lines: tuple[Line, ...]


def trust_cards(data: ReportData, length_note: str) -> list[Card]:
    """The trust card of a report; `length_note` says why the headline's cell has no length coefficient, else empty."""
    trust = data.trust
    made = Card(
        "Who wrote and who judges",
        (
            Line("Student", data.student, _family_text(trust.student_family)),
            Line("Teacher", data.teacher, _family_text(trust.teacher_family)),
            Line("Judged by", ", ".join(data.judges), "A panel's majority decides." if len(data.judges) > 1 else ""),
            _length_line(trust.length_effect, length_note),
            _imitation_line(trust.imitations),
        ),
    )
    families = {"student": trust.student_family, "teacher": trust.teacher_family}
    return [made, *judge_cards(trust.judges, families), _control_card(data), _agreement_card(data)]


def judge_cards(judges: Sequence[JudgeFigures], families: dict[str, str]) -> list[Card]:
    """A card for each judge; `families` says of which family the writers are."""
    return [_judge_card(judge, families) for judge in judges]


def _family_text(family: str) -> str:
    return f"Family {family}" if family else "Family not told by its name"


def _judge_card(judge: JudgeFigures, families: dict[str, str]) -> Card:
    order = judge.order
    unscored = judge.unscored / judge.games if judge.games else math.nan
    lines = [
        Line("Order consistency", *_consistency(order)),
        Line("Slot bias", *_slot_bias(order)),
        Line("Unscored games", f"{judge.unscored:,} of {judge.games:,} ({percent_text(unscored)})"),
    ]
    title = "The panel together" if judge.name == "panel" else f"Judge {judge.name}"
    return Card(title, tuple(lines if judge.name == "panel" else [_family_line(judge.family, families), *lines]))


def _family_line(family: str, families: dict[str, str]) -> Line:
    if family == "rubric":
        return Line("Family", "none", "Criteria checked on the text: no taste, and no family to favour.")
    if not family:
        return Line("Family", "not told by its name", "Whether it favours its own cannot be seen.", "warning")
    shared = [name for name, other in families.items() if other == family]
    if shared:
        with_whom = " and ".join(shared)
        return Line("Family", family, f"Shared with the {with_whom}. Judges favour their own family.", "warning")
    return Line("Family", family, f"Not that of the {' or '.join(families)}." if families else "")


def _consistency(order: OrderFigures | None) -> tuple[str, str, str]:
    if order is None:
        return _STUDY_MODE, "", ""
    share = order.consistency
    if math.isnan(share.value):
        return "unknown", "No pair has two scored games.", "warning"
    note = f"{percent_text(share.low)} to {percent_text(share.high)}; {counted(order.pairs, 'pair')} in both orders."
    if order.is_warning:
        return percent_text(share.value), f"{note} Under {percent_text(LEAST_CONSISTENCY)}.", "warning"
    return percent_text(share.value), note, "good"


def _slot_bias(order: OrderFigures | None) -> tuple[str, str, str]:
    if order is None:
        return _STUDY_MODE, "", ""
    bias = order.slot_bias
    if math.isnan(bias.value):
        return "unknown", "No pair has two scored games.", ""
    note = f"{points_text(bias.low)} to {points_text(bias.high)}; above 0 the first post is favoured."
    return f"{points_text(bias.value)} points", note, ""


def _length_line(found: LengthEffect, why_not: str) -> Line:
    """Good only where the whole interval is slight: a coefficient near 0 of few pairs clears nobody."""
    if math.isnan(found.coefficient):
        return Line("Length", "not found", f"{why_not[:1].upper()}{why_not[1:]}." if why_not else "")
    odds = math.exp(math.tanh(1) * found.coefficient)
    ends = "no interval" if math.isnan(found.low) else f"{signed_text(found.low, 2)} to {signed_text(found.high, 2)}"
    note = (
        f"A post that is one standard deviation longer has {number_text(odds)} times the odds "
        f"(coefficient {signed_text(found.coefficient, 2)}; {ends})."
    )
    if found.low > -SLIGHT_LENGTH_COEFFICIENT and found.high < SLIGHT_LENGTH_COEFFICIENT:
        return Line("Length", "hardly matters to the judge", note, "good")
    if not found.low > 0 and not found.high < 0:
        return Line("Length", "may matter to the judge: these pairs do not tell", note, "undecided")
    longer = "longer" if found.coefficient > 0 else "shorter"
    return Line("Length", f"the judge prefers {longer} posts", f"{note} See the length-controlled ratios.", "warning")


def _imitation_line(imitations: int) -> Line:
    note = "A post that imitates a verdict or a mark is flagged; it may leave its game unscored and never turns it."
    return Line("Imitations", counted(imitations, "game"), note, "warning" if imitations else "")


def _control_card(data: ReportData) -> Card:
    trust = data.trust
    if not trust.controls:
        reason = trust.missing_controls or "They have not been judged."
        return Card("Tests with a known answer", (Line("Controls", "none", reason, "warning"),))
    return Card("Tests with a known answer", tuple(map(_control_line, trust.controls)))


def _control_line(result: ControlResult) -> Line:
    name, mark = CONTROL_NAMES[result.name], _MARKS[result.control.finding]
    if not result.counts.pairs:
        return Line(name, "left out", LEFT_OUT, mark)
    note = f"{CONTROL_ANSWERS[result.name].capitalize()}. {CONTROL_MEANINGS[result.name]} {certain_line(result)}."
    return Line(name, ratio_text(*result.control.ratio), note, mark)


def _agreement_card(data: ReportData) -> Card:
    trust = data.trust
    lines = [Line(f"{one} and {other}", *_agreement(found)) for one, other, found in trust.between_judges]
    if trust.people is None:
        note = "Fill the blind sheet further down (Check the judge yourself)."
        lines.append(Line("With people", "not asked yet", note))
    else:
        value, note = _agreement(trust.people)
        if trust.unknown_labels:
            note += f" {counted(trust.unknown_labels, 'label')} of pairs that are not in this report."
        lines.append(Line("With people", value, note))
    return Card("Agreement", tuple(lines))


def _agreement(found: Agreement) -> tuple[str, str]:
    same = f"The same on {percent_text(found.agreed)} of {counted(found.scored, 'pair')}"
    same += f", {found.unscored:,} unscored." if found.unscored else "."
    if math.isnan(found.kappa):
        return "κ undefined", f"{same} One side said one thing only."
    low, high = signed_text(found.low, 2).lstrip("+"), signed_text(found.high, 2).lstrip("+")
    return f"κ {signed_text(found.kappa, 2).lstrip('+')}", f"{low} to {high}; 1 is full agreement, 0 chance. {same}"
