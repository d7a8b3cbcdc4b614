"""What the report says first, in words: the headline, the sentences under it, and the notices above it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from synthpost_dagster.cell import Cell
from synthpost_dagster.report.data import ControlResult, Cost
from synthpost_dagster.report.texts import (
    NO_DECISIVE_PAIR,
    cell_text,
    counted,
    counts_text,
    dollars_text,
    duration_text,
    interval_text,
    number_text,
    percent_text,
    ratio_text,
    unscored_text,
)
from synthpost_dagster.report.views import CellView, Score, place_text
from synthpost_dagster.statistics.choice import MOST_UNSCORED, is_placeable, is_too_unscored

if TYPE_CHECKING:
    from synthpost_dagster.report.data import Choice, JudgeFigures, PairsData, ReportData
    from synthpost_dagster.report.data_quality import GateLine
    from synthpost_dagster.statistics.order import OrderFigures
    from synthpost_dagster.statistics.ratio import Counts, Ratio
    from synthpost_dagster.statistics.style import Separation

SHORT_PROMPT = "the untuned model with the short prompt"
LONG_PROMPT = "the untuned model with the long prompt, which holds all criteria"
CONTROL_NAMES = {
    "resampled": "The untuned model against itself",
    "empty": "Empty posts against real ones",
    "shuffled": "Tuned posts dealt to wrong prompts against the right ones",
}
"""Control → what was compared."""
CONTROL_ANSWERS = {
    "resampled": "two sets of posts by the same model must come out near 1",
    "empty": "posts without a word must lose",
    "shuffled": "posts written for another prompt must lose",
}
"""Control → what it must come to."""
CONTROL_MEANINGS = {
    "resampled": "It shows that nothing in the pipeline tells the two sides apart; a judge that guesses passes too.",
    "empty": "It shows whether the judge tells a post from none.",
    "shuffled": "It shows whether the judge heeds what a post was asked for.",
}
"""Control → what it shows of the judge, and what it does not."""
_FINDINGS = {
    ("resampled", "warning"): "A fair judge comes out so far from 1 in one of twenty runs; take the figures with care.",
    ("empty", "warning"): "They are not shown to lose. It may be for want of pairs, or the judge sees little.",
    ("shuffled", "warning"): "They are not shown to lose. It may be for want of pairs, or the judge sees little.",
}
LEFT_OUT = "There is one evaluation prompt, so there is no other one to deal its post to."
_UNDECIDED = (
    "No pair was won or lost, which clears nobody: a judge that always picks the same place comes out so, whatever the "
    "posts say."
)
_STUDY_MODE = (
    "One order was played, the {opponent} post first, and the judge had to choose. A judge that favours a place goes "
    "unnoticed, so compare these figures with others of study mode alone."
)

MAX_GATE_NOTICES = 3
"""Failed checks that are told above the headline; the section on data has them all."""
_BY_PROMPT = " The length-controlled ratio and the order figures count whole prompts, and allow for it."


class Headline(NamedTuple):
    """A title and the sentences under it; `view` is None where there is no winner to name."""

    title: str
    sentences: tuple[str, ...]
    view: CellView | None


class Notice(NamedTuple):
    """Something that limits the figures: `kind` is note, warning or bad, by which it is coloured."""

    kind: str
    title: str
    text: str
    items: tuple[str, ...] = ()


def headline(data: ReportData, cells: Sequence[CellView]) -> Headline:
    """What the sweep shows, in words. No winner is named where the judge cannot be trusted."""
    if not data.trust.is_judge_trusted:
        return _untrusted(data)
    if data.separations:
        return _separated(data.separations)
    if not cells:
        return Headline("No cell has been judged yet.", ("There are no verdicts to report.",), None)
    best = next((view for view in cells if data.choice and view.cell == data.choice.cell), None)
    if data.choice is None or best is None or best.base is None:
        title = "No cell can be chosen." if _too_unscored(cells) else "No cell has a decisive pair."
        return Headline(title, (*_unplaced_sentences(cells), *_prompting_sentences(data, None)), None)
    sentences = (
        _interval_sentence(data.choice, best.base.score),
        *_worst_sentences(data.choice, best.base.score.counts),
        *_standing_sentences(data, data.choice, cells),
        *_unplaced_sentences(cells),
        *_cost_sentences(data.costs.get(best.cell)),
        *_prompting_sentences(data, best),
    )
    return Headline(_title(data.choice, cells), sentences, best)


def notices(data: ReportData) -> list[Notice]:
    """What the reader must know before the headline, the gravest first."""
    failed = [line for line in data.quality.gates if line.gate.is_blocking and not line.gate.is_passed]
    gates = [_gate_notice(line) for line in failed[:MAX_GATE_NOTICES]]
    found = [_control_notice(result) for result in data.trust.controls if result.control.finding != "good"]
    found.sort(key=lambda notice: notice.kind != "bad")
    found = gates + found
    if data.trust.missing_controls:
        reason = f"The controls are not there: {data.trust.missing_controls}"
        found.append(Notice("warning", "The judge has not been tested.", reason))
    found += _separation_notices(data.separations)
    for why in data.trust.unscored:
        kind = "bad" if why.figure == 1 else "warning"
        found.append(Notice(kind, "Many games could not be scored.", f"{why.cause}.", tuple(why.lines)))
    found += order_notices(data.trust.judges)
    if data.is_study_mode:
        found.append(_study_notice("untuned"))
    if data.caution:
        found.append(Notice("note", "Caution.", data.caution))
    if data.missing:
        title = f"{counted(len(data.missing), 'cell')} of the sweep {_are(len(data.missing))} not in this report."
        items = tuple(f"{place_text(key)}: {reason}" for key, reason in data.missing)
        found.append(Notice("note", title, "", items))
    return found


def _gate_notice(line: GateLine) -> Notice:
    """What a failed check stops, why it failed, and what to change."""
    artifact = f"{line.asset} {line.partition}".strip()
    title = f"Nothing was made of {artifact}, which failed a check."
    return Notice("bad", title, f"{line.gate.sentence(artifact)}.", tuple(line.gate.details))


def order_notices(judges: Sequence[JudgeFigures]) -> list[Notice]:
    """A notice for each judge that follows the order of the posts too often."""
    return [
        _order_notice(judge.name, judge.order) for judge in judges if judge.order is not None and judge.order.is_warning
    ]


def _order_notice(judge: str, order: OrderFigures) -> Notice:
    return Notice(
        "warning",
        f"{judge} often changes its mind with the order of the posts.",
        f"Its two games of a pair agree in {percent_text(order.consistency.value)} of pairs, where 75 % and more are "
        "wanted. Where they disagree the pair is a tie.",
    )


def _separation_notices(separations: Sequence[Separation]) -> list[Notice]:
    """The traits of style that separate the outcomes: the strongest sign that a judge looks at nothing else."""
    if not separations:
        return []
    items = tuple(
        f"{one.trait}: the post with {'more' if one.is_more_preferred else 'fewer'} won {one.followed:,} of "
        f"{one.unlike:,} decided pairs that differ in it"
        for one in separations
    )
    text = "No winner is named. Compare posts that are alike in it, or use a judge that passes this test."
    return [Notice("bad", f"The number of {separations[0].trait} separates the outcomes.", text, items)]


def _separated(separations: Sequence[Separation]) -> Headline:
    first = separations[0]
    sentence = (
        f"The post with {'more' if first.is_more_preferred else 'fewer'} {first.trait} won {first.followed:,} of "
        f"{first.unlike:,} decided pairs that differ in it, more than either side won. The ratios on this page may say "
        "nothing else."
    )
    return Headline(f"The number of {first.trait} decides the outcomes, so no winner is named.", (sentence,), None)


def _contradiction_notices(data: PairsData) -> list[Notice]:
    """That games of one pair contradict each other, as they do where labels name places."""
    found = data.contradictions
    remedy = (
        "If the labels name places (the first or the second post) and not contestants, name the column that says which "
        "post stood first with --order-column, and its value with --candidate-first."
    )
    if found.pairs and 2 * found.contradicted > found.pairs:
        title = f"The games contradict each other in {found.contradicted:,} of {counted(found.pairs, 'pair')}."
        return [Notice("warning", title, f"Such a pair counts as a tie. {remedy}")]
    if found.may_name_places:
        return [Notice("warning", "The labels are words for places, and pairs have several games.", remedy)]
    return []


def pairs_notices(data: PairsData) -> list[Notice]:
    """What the reader of comparisons made elsewhere must know before the headline."""
    found = [*_separation_notices(data.separations), *_contradiction_notices(data), *order_notices(data.judges)]
    if data.games and not data.judges and data.games.order.is_warning:
        found.append(_order_notice("The judge", data.games.order))
    if data.is_study_mode:
        found.append(_study_notice("baseline's"))
    if data.note:
        found.append(Notice("note", data.note, ""))
    pairs = data.comparison.counts.pairs
    if data.prompts is not None and data.prompts < pairs:
        found.append(
            Notice(
                "warning",
                f"{counted(pairs, 'pair')} share {counted(data.prompts, 'prompt')}.",
                "In the exact intervals and the sign test the pairs are taken as independent; where "
                f"pairs of one prompt tend to end alike, these are too sure.{_BY_PROMPT if data.games else ''}",
            )
        )
    return found


def _study_notice(opponent: str) -> Notice:
    return Notice("note", "Study mode.", _STUDY_MODE.format(opponent=opponent))


def pairs_headline(data: PairsData) -> Headline:
    """What comparisons made elsewhere show, in words."""
    compared = data.comparison
    if data.separations:
        return _separated(data.separations)
    counts, ratio = compared.counts, compared.ratio
    if not counts.wins + counts.losses:
        nothing = f"{counts_text(counts)}. Without a decided pair there is no ratio."
        return Headline("No pair was won or lost.", (nothing,), None)
    sentences = [
        f"{data.candidate} was preferred in {counts.wins:,} of {counts.wins + counts.losses:,} decided pairs: "
        f"{counts_text(counts)}. The win ratio is {ratio_text(*ratio)}, at 95 %."
    ]
    if counts.unscored:
        sentences.append(f"{unscored_text(counts)} {_worst_text(compared.worst_case)}")
    else:
        sentences.append("Every pair was scored, so the worst case is the same.")
    return Headline(_pairs_title(data, ratio), tuple(sentences), None)


def cost_text(cost: Cost) -> str:
    """What a cell took, in one phrase."""
    generated = "an unknown time" if math.isnan(cost.row_seconds) else duration_text(cost.row_seconds)
    paid = "nothing" if cost.row_usd == 0 else dollars_text(cost.row_usd)
    return f"{paid} and {generated} of generation for its rows, {duration_text(cost.training_seconds)} of training"


def tokens_saved(prompt_tokens: Mapping[str, float]) -> float | None:
    """Prompt tokens saved on a post; None where a mean is not known or nothing is saved."""
    saved = prompt_tokens.get("prompted", 0.0) - prompt_tokens.get("base", math.inf)
    return saved if saved > 0 else None


def certain_line(result: ControlResult) -> str:
    """A control's interval at 99.9 % and its counts."""
    return f"At 99.9 %: {_certain_text(result.control.certain)}; {counts_text(result.counts)}"


def _certain_text(ratio: Ratio) -> str:
    return NO_DECISIVE_PAIR if math.isnan(ratio.value) else interval_text(ratio.low, ratio.high)


def _untrusted(data: ReportData) -> Headline:
    failed = [result for result in data.trust.controls if result.control.finding == "untrusted"]
    sentences = [
        f"{CONTROL_NAMES[result.name]}: {CONTROL_ANSWERS[result.name]}, and the ratio is "
        f"{number_text(result.control.ratio.value)}, its 99.9 % interval {_certain_text(result.control.certain)} "
        f"({counts_text(result.counts)})."
        for result in failed
    ]
    sentences.append("Until the judge passes, the ratios on this page say more about it than about the posts.")
    return Headline("The judge cannot be trusted, so no winner is named.", tuple(sentences), None)


def _control_notice(result: ControlResult) -> Notice:
    finding = result.control.finding
    if not result.counts.pairs:
        return Notice("warning", "A test of the judge was left out.", f"{CONTROL_NAMES[result.name]}. {LEFT_OUT}")
    line = f"{CONTROL_NAMES[result.name]}: {CONTROL_ANSWERS[result.name]}. Found: "
    line += f"{ratio_text(*result.control.ratio)}. {certain_line(result)}."
    if finding == "untrusted":
        return Notice("bad", "The judge failed a test.", line)
    if finding == "undecided":
        return Notice("warning", "A test of the judge decided nothing.", f"{line} {_UNDECIDED}")
    return Notice("warning", "A test of the judge gives a warning.", f"{line} {_FINDINGS[result.name, finding]}")


def _title(choice: Choice, cells: Sequence[CellView]) -> str:
    rated = [view.base.score for view in cells if view.base and view.base.score.is_decisive]
    if all(score.high < 1 for score in rated):
        return "In every cell the tuned posts lose to the untuned model more often than they win."
    if choice.ratio.low <= 1:
        return f"No cell is shown to beat {SHORT_PROMPT}."
    tuned = f"Tuned on {cell_text(choice.cell)}"
    if math.isinf(choice.ratio.value):
        return f"{tuned}: preferred in every decided pair"
    return f"{tuned}: preferred {number_text(choice.ratio.value)} times as often as the untuned model"


def _pairs_title(data: PairsData, ratio: Ratio) -> str:
    if ratio.low > 1:
        if math.isinf(ratio.value):
            return f"{data.candidate}: preferred in every decided pair"
        return f"{data.candidate}: preferred {number_text(ratio.value)} times as often as {data.baseline}"
    if ratio.high < 1:
        return f"{data.candidate} loses to {data.baseline} more often than it wins."
    return f"Neither {data.candidate} nor {data.baseline} is shown to be better."


def _interval_sentence(choice: Choice, score: Score) -> str:
    ratio = choice.ratio
    between = interval_text(ratio.low, ratio.high)
    if not math.isinf(ratio.high):
        between = f"between {number_text(ratio.low)} and {number_text(ratio.high)}"
    return (
        f"Its win ratio against {SHORT_PROMPT} is {number_text(ratio.value)}, {between} ({_allowance(choice)}). "
        f"Tuned on {cell_text(choice.cell)}: {counts_text(score.counts)}."
    )


def _allowance(choice: Choice) -> str:
    if choice.chosen_among > 1:
        return f"95 %, allowing for having chosen the best of {choice.chosen_among} cells"
    return "95 %; there is no other cell to choose from"


def _standing_sentences(data: ReportData, choice: Choice, cells: Sequence[CellView]) -> list[str]:
    sentences = []
    below = choice.chosen_among - 1 - len(choice.alike) - len(choice.better)
    if choice.better:
        names, does = "; ".join(map(cell_text, choice.better)), "does" if len(choice.better) == 1 else "do"
        sentences.append(f"On the same prompts {names} {does} better by win rate (ties count half).")
    if choice.alike:
        names = "; ".join(map(cell_text, choice.alike))
        sentences.append(
            f"On the same prompts it cannot be told from {names}. That does not show that they are equal. "
            + _least_sentence(data, cells, [choice.cell, *choice.alike])
        )
    if below:
        sentences.append(f"On the same prompts it does better than the other {counted(below, 'cell')}.")
    return sentences


def _worst_sentences(choice: Choice, counts: Counts) -> list[str]:
    if not counts.unscored:
        return []
    sentence = f"{unscored_text(counts)} {_worst_text(choice.worst_case)}"
    if choice.ratio.low > 1 >= choice.worst_case.low:
        sentence += " Then it would not be shown to win."
    return [sentence]


def _worst_text(worst_case: Ratio) -> str:
    return f"In the worst case, with all of these lost, the ratio is {ratio_text(*worst_case)}."


def _unplaced_sentences(cells: Sequence[CellView]) -> list[str]:
    """The cells that could not be chosen and are not compared, with the reason."""
    named = _too_unscored(cells)
    sentences = [
        f"{cell_text(cell)} is left out: {counts_text(counts)}. With more than {percent_text(MOST_UNSCORED)} unscored "
        "a cell is not compared."
        for cell, counts in named.items()
    ]
    undecided = sum(view.cell not in named and (view.base is None or not view.base.score.is_decisive) for view in cells)
    if undecided:
        sentences.append(f"{counted(undecided, 'cell')} cannot be placed: {NO_DECISIVE_PAIR} against {SHORT_PROMPT}.")
    return sentences


def _too_unscored(cells: Sequence[CellView]) -> dict[Cell, Counts]:
    against = {view.cell: view.base.score.counts for view in cells if view.base}
    return {cell: counts for cell, counts in against.items() if is_too_unscored(counts)}


def _least_sentence(data: ReportData, cells: Sequence[CellView], alike: Sequence[Cell]) -> str:
    """Which of the cells that are not told apart is the smallest, and which the cheapest."""
    done = {view.cell: view.optimizer_steps for view in cells}
    smallest = min(alike, key=lambda cell: (cell.data_size, done[cell]))
    known = [cell for cell in alike if cell in data.costs]
    cheapest = min(known, key=lambda cell: _cost_order(data.costs[cell]), default=None)
    if cheapest is None:
        return f"The smallest of these is {cell_text(smallest)}."
    took = cost_text(data.costs[cheapest])
    if cheapest == smallest:
        if smallest == alike[0]:
            return "It is also the smallest and the cheapest of these."
        return f"The smallest and cheapest of these is {cell_text(smallest)}: {took}."
    return f"The smallest of these is {cell_text(smallest)}, the cheapest {cell_text(cheapest)}: {took}."


def _cost_order(cost: Cost) -> tuple[float, float]:
    generated = 0.0 if math.isnan(cost.row_seconds) else cost.row_seconds
    return cost.row_usd, generated + cost.training_seconds


def _cost_sentences(cost: Cost | None) -> list[str]:
    return [f"It cost {cost_text(cost)}; judging is not counted."] if cost else []


def _prompting_sentences(data: ReportData, best: CellView | None) -> list[str]:
    """What the long prompt alone gives, how the best cell fares against it, and what the short prompt saves."""
    sentences = []
    if data.prompting is None:
        sentences.append("What prompting alone would give has not been judged.")
    else:
        sentences.append(
            f"Prompting alone would give {ratio_text(*data.prompting.ratio)}: {LONG_PROMPT}, against the same model "
            f"with the short prompt ({counts_text(data.prompting.counts)})."
        )
    if data.choice and best and best.prompted:
        ratio, counts = data.choice.against_prompted, best.prompted.score.counts
        sentences.append(
            f"Tuned posts against prompted ones directly: {ratio_text(*ratio)} ({_allowance(data.choice)}), "
            f"{counts_text(counts)}. {_placement(ratio, counts)}"
        )
    saved = tokens_saved(data.prompt_tokens)
    if saved is not None:
        short, long = data.prompt_tokens["base"], data.prompt_tokens["prompted"]
        sentences.append(
            f"The tuned model works with the short prompt: {short:,.0f} tokens on average instead of {long:,.0f}, so "
            f"{saved:,.0f} fewer for every post."
        )
    return sentences


def _placement(ratio: Ratio, counts: Counts) -> str:
    if not is_placeable(counts):
        return "So nothing can be said about it."
    if ratio.low > 1:
        return "So tuning does better than prompting alone."
    if ratio.high < 1:
        return "So prompting alone does better."
    return "The interval holds 1, so neither is shown to be better."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
