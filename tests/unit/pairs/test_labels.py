"""Raw verdict labels are read where one reading is left, and never otherwise."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synthpost_dagster.errors import SpecError
from synthpost_dagster.pairs.labels import Meaning, Read, read_label
from synthpost_dagster.pairs.mapping import parse_map, read_mapped

TUNED = Meaning("finetuned", "baseline")
NESTED = Meaning("tuned", "untuned")
SLOTS = Meaning("A", "B")
MODELS = Meaning("model", "model_base")
BASES = Meaning("baseline", "base")


def outcome(raw: str, meaning: Meaning = TUNED) -> str:
    return read_label(raw, meaning).outcome


def why_not(raw: str, meaning: Meaning = TUNED) -> str:
    read = read_label(raw, meaning)
    assert read.outcome == "unscored"
    return read.how


@pytest.mark.parametrize(("raw", "expected"), [("finetuned", "win"), ("baseline", "loss"), ("tie", "tie")])
def test_exact_label_is_read_without_a_remark(raw: str, expected: str) -> None:
    assert read_label(raw, TUNED) == Read(expected, "")
    assert read_label(raw, TUNED, is_strict=True) == Read(expected, "")


@pytest.mark.parametrize("raw", ['"finetuned"', "Finetuned", " finetuned", "finetunde", "finetuned.", "", "other"])
def test_strictly_only_exact_labels_count(raw: str) -> None:
    assert read_label(raw, TUNED, is_strict=True) == Read("unscored", "not exact")


@pytest.mark.parametrize(
    "raw",
    [
        '"finetuned"', "'finetuned'", "“finetuned”", "„finetuned“", "‘finetuned’", "«finetuned»", "「finetuned」",
        "`finetuned`", "```finetuned```", "**finetuned**", "__finetuned__", "*finetuned*", "\"'finetuned'\"",
        '"finetuned', 'finetuned"', '\\"finetuned\\"', "FINETUNED", "FineTuned", "fInEtUnEd", "  finetuned\t\r\n",
        "\u00a0finetuned\u200b", "\ufefffinetuned", "finetuned\0", "finetuned.", "finetuned!", "finetuned,",
        "finetuned:", "finetuned;", "finetuned…", "(finetuned)", "[finetuned]", "[[finetuned]]", "{finetuned}",
        "<finetuned>", "- finetuned", "# finetuned", "> finetuned", "finetuned 👍", "→ finetuned", "fine-tuned",
        "fine_tuned", "fine tuned", "Fine-Tuned", "fine‑tuned", "fine – tuned", "FINE_TUNED",
    ],
)  # fmt: skip
def test_quotes_case_spaces_hyphens_and_brackets_are_no_damage(raw: str) -> None:
    assert read_label(raw, TUNED) == Read("win", "quotes, case or spaces")


@pytest.mark.parametrize(
    "raw",
    [
        "label: finetuned", "Label = finetuned", "Answer: finetuned", "**Answer:** finetuned",
        "Final answer: finetuned.", "The winner is finetuned", "The better post is: **finetuned**",
        "Verdict - fine-tuned", "I prefer finetuned", '{"choice": "finetuned"}',
        "The other is dull. Winner: finetuned", '{"reason": "It is not dull", "winner": "finetuned"}',
        '{"verdict": "finetuned"}', '{"chosen": "finetuned"}',
        '{"winner": "finetuned"}', "{'label': 'finetuned'}",
        '{"verdict": {"winner": "fine_tuned"}}', '["winner", "finetuned"]', "\\boxed{finetuned}",
        "<winner>finetuned</winner>",
        '```\nAnswer: "finetuned"\n```',
    ],
)  # fmt: skip
def test_words_that_lead_up_to_a_label_are_passed_over(raw: str) -> None:
    assert read_label(raw, TUNED) == Read("win", "words before the label")


@pytest.mark.parametrize(
    "raw",
    [
        "finetunedThe post is better because it opens with a question", "FINETUNEDThe post has a hook",
        "finetunedIt sells", "finetuned.The post has a hook", "finetuned.it has a hook", "finetuned - it has a hook",
        "finetuned—it has a hook",
        "finetuned: better than the other", "finetuned, no doubt", "finetuned\n\nit has a hook",
        "finetuned (it has a hook)", "finetuned The post sells",
        '"finetuned" it has a hook', "**finetuned** because of its hook", "fine-tunedThe post",
        "Answer: finetunedThe post sells", '{"winner": "finetuned", "reason": "not as dull"}',
        "finetunedbecause it is vivid", "FINETUNEDBECAUSE it sells",
        "finetuned because it is vivid", "finetuned - stronger hook", "finetuned: no errors, and vivid",
        "finetuned: better than the baseline",
                "finetuned, it avoids clichés", '{"verdict": "finetuned", "why": "vivid"}',
        "finetuned because it does not waste words",
    ],
)  # fmt: skip
def test_explanation_run_into_the_label_is_cut_off(raw: str) -> None:
    assert read_label(raw, TUNED) == Read("win", "explanation after the label")


@pytest.mark.parametrize(
    "raw",
    [
        "finetunde", "fintuned", "finetunned", "finettuned", "fineteund", "fientunde", "Finetund", '"finetund"',
        "fine-tunde", "finetunes", "Answer: finetunde", "finetunde: it has a hook", "finetundThe post has a hook",
    ],
)  # fmt: skip
def test_misspelt_letter_or_two_are_read(raw: str) -> None:
    assert read_label(raw, TUNED) == Read("win", "misspelt")


@pytest.mark.parametrize(
    ("raw", "meaning", "expected"),
    [
        ("tnued", NESTED, "win"),
        ("tunned", NESTED, "win"),
        ("utnuned", NESTED, "loss"),
        ("bsae", BASES, "loss"),
        ("baselnie", BASES, "win"),
    ],
)
def test_misspelling_is_read_as_the_nearest_label(raw: str, meaning: Meaning, expected: str) -> None:
    assert outcome(raw, meaning) == expected


def test_short_label_is_misspelt_only_where_it_is_alone() -> None:
    assert outcome("baes") == "unscored"
    assert outcome("baes", BASES) == "loss"
    assert outcome("Case: the post sells", BASES) == "unscored"


@pytest.mark.parametrize("raw", ["tnude", "tooned", "tund e", "trimmed"])
def test_two_errors_are_too_many_for_a_label_of_five_letters(raw: str) -> None:
    assert outcome(raw, Meaning("tuned", "base")) == "unscored"


@pytest.mark.parametrize("raw", ["C", "AA", "AB", "X:", "no", "ny"])
@pytest.mark.parametrize("meaning", [SLOTS, Meaning("no", "up")])
def test_label_of_one_or_two_letters_has_no_misspellings(raw: str, meaning: Meaning) -> None:
    assert outcome(raw, meaning) == ("win" if raw == meaning.win else "unscored")


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        ("reft", Meaning("left", "reet")),
        ("post_c", Meaning("post_a", "post_b")),
        ("tuned", Meaning("untuned", "base")),
        ("model 3", Meaning("model 1", "baseline")),
        ("option b", Meaning("option a", "baseline")),
        ("groupB", Meaning("groupA", "baseline")),
        ("gpt-4o", Meaning("gpt-4", "llama")),
        ("unfinetuned", TUNED),
        ("model abse", MODELS),
        ("model Abse", MODELS),
        ("Answer: model abse", MODELS),
    ],
)
def test_ambiguous_misspelling_is_unscored(raw: str, meaning: Meaning) -> None:
    assert why_not(raw, meaning) == "could be either"


@pytest.mark.parametrize("raw", ["The", "the:", "This", "Time is short", "Note: none", "then"])
def test_ordinary_word_is_no_misspelt_tie(raw: str) -> None:
    assert why_not(raw) == "names neither"


@pytest.mark.parametrize("raw", ["", " ", "\n\t", '""', "''", "...", "\u200b", "``` ```", "()"])
def test_empty_label_is_unscored(raw: str) -> None:
    assert why_not(raw) == "no label"


@pytest.mark.parametrize(
    "raw",
    [
        "finetuned baseline", "finetuned/baseline", "finetuned or baseline", "Both finetuned and baseline are good",
        "finetuned is better than baseline", "finetuned - baseline is better", "finetuned/baseline: worse",
        "finetuned, like baseline, is weaker", "finetuned because baseline is stronger", "finetuned. Baseline wins.",
        '{"chosen": "finetuned", "rejected": "baseline"}', "finetuned, baseline is weaker",
        '{"winner": "finetuned", "loser": "baseline"}', "baseline\nfinetuned", "finetuned, a tie really",
        "fine-tuned, not base line", "finetunedBaseline",
    ],
)  # fmt: skip
def test_text_that_names_both_labels_is_unscored(raw: str) -> None:
    assert why_not(raw) in {"names both", "could be either"}


@pytest.mark.parametrize(
    "raw",
    [
        "other", "I cannot decide", "Sorry, I can't help with that.", "👍", "—", "null", "NA", "None",
        "superfinetuned", "finetuned2", "finetuned_v2", "42", "ناجح",
    ],
)  # fmt: skip
def test_text_that_names_no_label_is_unscored(raw: str) -> None:
    assert outcome(raw) == "unscored"
    assert read_label(raw, TUNED).how in {"names neither", "could be either"}


@pytest.mark.parametrize(
    "raw",
    [
        "not finetuned", "The finetuned post is worse", "The other is better than finetuned",
        "The winner is not finetuned", "None of finetuned", "finetuned isn't good",
        "anything but that, instead of finetuned", '{"loser": "finetuned"}', "basleine beats finetuned",
        "finetuned and basleine are equal",
        "rejected: finetuned", '{"rejected": "finetuned"}', "The weakest is finetuned", "I'd rather avoid finetuned",
        "I disagree with finetuned", "finetuned fails to sell", "error: finetuned endpoint timed out",
        "finetuned is vivid", "finetuned is best avoided", "runner-up: finetuned", "Second best: finetuned",
        "finetuned trails the winner", "finetuned would be better with a hook", "I prefer the other to finetuned",
        "The finetuned post wins", "It is clear that finetuned sells more", "I would pick finetuned",
        "finetuned wins because the other is weak", "It's a tie", "finetuned because baseline is weaker",
        "Is finetuned better?", "Nobody says finetuned wins", "I choose against finetuned", "timeout on finetuned",
    ],
)  # fmt: skip
def test_label_inside_a_sentence_is_not_read(raw: str) -> None:
    assert outcome(raw) == "unscored"


@pytest.mark.parametrize(
    "label", ["finetuned", "finetunde", "Answer: finetuned", '{"winner": "finetuned"}', "fine-tuned"]
)
@pytest.mark.parametrize(
    "behind",
    [
        " (loser)", ", which lost", ": loses clearly", ": the other is better", ": HTTP 500", " - not good", "? No.",
        ": the winner is the other", " - I choose the other one", ", however the other is my choice",
        ", or maybe the other", " < the other", ": draw", ": N/A", ": 0, other: 1", ": equal to the other",
        ": endpoint down", ": if it had a hook", ": basleine is better", " (rejected)", ": false", " ❌", ": 0",
        ": it lacks a hook",
    ],
)  # fmt: skip
def test_words_right_behind_a_label_can_take_it_back(label: str, behind: str) -> None:
    assert why_not(f"{label}{behind}") in {"names both", "could be either"}


@pytest.mark.parametrize(
    "raw",
    [
        "It is dull. Verdict: finetuned", "The baseline is dull.\nWinner: **finetuned**.", "Well, answer = fine-tuned",
    ],
)  # fmt: skip
def test_label_after_winner_at_the_end_is_read(raw: str) -> None:
    assert read_label(raw, TUNED) == Read("win", "words before the label")


@pytest.mark.parametrize("raw", ["finetuned: vivid. Winner: baseline", "Winner: baseline. It beats finetuned, oddly"])
def test_two_verdicts_or_an_unclear_one_are_unscored(raw: str) -> None:
    assert outcome(raw) == "unscored"


@pytest.mark.parametrize(
    "raw", ['{"chosen": "x", "rejected": "baseline"}', "I reject baseline", "timeout while judging baseline"]
)
def test_rejected_or_failed_baseline_does_not_win(raw: str) -> None:
    assert outcome(raw) == "unscored"


@pytest.mark.parametrize("raw", ["tie: neither is better", "Tie, both are weak"])
def test_tie_with_an_explanation_is_read(raw: str) -> None:
    assert outcome(raw) == "tie"


@pytest.mark.parametrize("raw", ["tie: timeout", "not a tie", "error: a tie could not be saved", "Is it a tie?"])
def test_doubtful_tie_is_unscored(raw: str) -> None:
    assert outcome(raw) == "unscored"


@pytest.mark.parametrize(
    ("raw", "meaning", "expected"),
    [
        ("untuned", NESTED, "loss"), ("UNTUNED.", NESTED, "loss"), ("un-tuned", NESTED, "loss"),
        ("un tuned", NESTED, "loss"), ("unTuned", NESTED, "loss"), ("un\ntuned", NESTED, "loss"),
("tuned", NESTED, "win"), ("tuned: it sells", NESTED, "win"),
        ("model", MODELS, "win"), ("Model:", MODELS, "win"), ("model base", MODELS, "loss"),
        ("ModelBase", MODELS, "loss"), ("model-base", MODELS, "loss"), ("modelThe post", MODELS, "win"),
        ("base", BASES, "loss"), ("base line", BASES, "win"), ("Base-line:", BASES, "win"), ("base.", BASES, "loss"),
    ],
)  # fmt: skip
def test_longest_of_labels_that_contain_each_other_is_read(raw: str, meaning: Meaning, expected: str) -> None:
    assert outcome(raw, meaning) == expected


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        ("un-tuned", Meaning("tuned", "base")),
        ("fine-tuned", Meaning("tuned", "base")),
        ("fortuned by the data", Meaning("tuned", "base")),
        ("the database", Meaning("tuned", "base")),
        ("model 2", Meaning("model", "other")),
        ("model_v2", Meaning("model", "other")),
        ("tuned's post", Meaning("tuned", "base")),
    ],
)
def test_label_is_never_found_inside_another_word(raw: str, meaning: Meaning) -> None:
    assert outcome(raw, meaning) == "unscored"


@pytest.mark.parametrize("a", ["A", "a"])
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("A", "win"), ("a", "win"), (" B ", "loss"), ("(A)", "win"), ("[[B]]", "loss"), ("A.", "win"),
        ("**B**", "loss"), ("A: it has a hook", "win"), ("A - it has a hook", "win"), ("A, because it sells", "win"),
        ("A\nIt has a hook", "win"), ("B: A better hook", "loss"), ("Post A", "win"),
("option B.", "loss"), ("post a", "win"), ("Answer: A", "win"),
        ("Answer: (B)", "loss"), ("answer: a", "win"), ("The winner is B.", "loss"), ('{"winner": "A"}', "win"),
        ('{"why": "A good hook", "winner": "B"}', "loss"),
        ("\\boxed{B}", "loss"), ("I choose B because it sells", "loss"), ("'B' has the hook", "loss"),
    ],
)  # fmt: skip
def test_label_of_one_letter_is_read_where_it_is_a_label(raw: str, expected: str, a: str) -> None:
    assert outcome(raw, Meaning(a, "B")) == expected


@pytest.mark.parametrize(
    "raw",
    [
        "A better post", "A great hook wins.", "This is a tie-in", "It has a hook",
        "I like the post. A better hook is rare", "The post a company needs", "The best is a", "A/B", "A, B", "A or B",
        "B, not A", "A is better than B", "AThe post", "A-list", "Plan B", "AB", "a lot", "A's hook",
        "Post A is worse", "Post A, the weaker one", "A has many errors", "A / tie", "A/tie", "B or tie", "A | tie",
        "A because B is stronger", "A (loser)", "Rejected: A", "B fails",
    ],
)  # fmt: skip
def test_label_of_one_letter_is_not_found_in_a_sentence(raw: str) -> None:
    assert outcome(raw, SLOTS) == "unscored"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("1", "win"), ("2.", "loss"), ("Post 1", "win"), ("1: it has a hook", "win"),
        ("1.0", "win"), ("2.0", "loss"), ("1.5", "unscored"), ("-1", "unscored"), ("1/2", "unscored"),
        ("12", "unscored"), ("1. Hook\n2. Offer", "unscored"),
    ],
)  # fmt: skip
def test_numbers_as_labels(raw: str, expected: str) -> None:
    assert outcome(raw, Meaning("1", "2")) == expected


@pytest.mark.parametrize(
    ("raw", "meaning", "expected"),
    [
        ("👍", Meaning("👍", "👎"), "win"), (' "👎" ', Meaning("👍", "👎"), "loss"),
        (">", Meaning(">", "<", "="), "win"), ("=", Meaning(">", "<", "="), "tie"),
        ("-1", Meaning("1", "-1", "0"), "loss"), ("1.", Meaning("1", "-1", "0"), "win"),
        ("+1", Meaning("1", "-1", "0"), "unscored"), ("C", Meaning("C", "C++"), "win"),
        ("c++", Meaning("C", "C++"), "loss"), ("C++: it sells", Meaning("C", "C++"), "unscored"),
    ],
)  # fmt: skip
def test_labels_with_symbols_are_read_only_exactly(raw: str, meaning: Meaning, expected: str) -> None:
    assert outcome(raw, meaning) == expected


def test_map_gives_the_outcome_of_a_label_that_is_not_read() -> None:
    by_label = parse_map(["The finetuned post wins=win", "a=b=tie", "finetunde=unscored", "=loss"])
    assert by_label == {"The finetuned post wins": "win", "a=b": "tie", "finetunde": "unscored", "": "loss"}
    assert read_mapped('"the FINETUNED post wins."', by_label) == Read("win", "--map")
    assert read_mapped('"the FINETUNED post wins."', by_label, is_strict=True) is None
    assert read_mapped("finetunde", by_label, is_strict=True) == Read("unscored", "--map")
    assert read_mapped("other", by_label) is None
    assert read_mapped('""', by_label) is None


@pytest.mark.parametrize("arguments", [["label"], ["label=won"], ["x=win", "x=loss"]])
def test_map_that_is_wrong_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SpecError, match=re.escape(arguments[0].split("=")[0])):
        parse_map(arguments)


@pytest.mark.parametrize(
    ("meaning", "message"),
    [
        (Meaning("tuned", "tuned"), "--win 'tuned' and --loss 'tuned' read alike"),
        (Meaning("tuned", ' "Tuned".'), "--win .* and --loss .* read alike"),
        (Meaning("fine-tuned", "fine_tuned"), "--win .* and --loss .* read alike"),
        (Meaning("Tie", "loss"), "--win 'Tie' is also the word for a tie"),
        (Meaning("win", "draw", "draw"), "--loss 'draw' is also the word for a tie"),
        (Meaning(" ", "loss"), "--win is empty"),
        (Meaning("win", ""), "--loss is empty"),
    ],
)
@pytest.mark.parametrize("is_strict", [False, True])
def test_labels_that_read_alike_are_refused(meaning: Meaning, message: str, is_strict: bool) -> None:
    with pytest.raises(SpecError, match=message):
        read_label("tuned", meaning, is_strict)


def test_best_cell_of_the_study_is_81_to_14_and_strictly_80_to_11() -> None:
    labels = ["finetuned"] * 80 + ["baseline"] * 11 + ['"finetuned"'] + ['"baseline"'] * 3
    tolerant = Counter(outcome(label) for label in labels)
    strict = Counter(read_label(label, TUNED, is_strict=True).outcome for label in labels)
    assert tolerant == {"win": 81, "loss": 14}
    assert strict == {"win": 80, "loss": 11, "unscored": 4}


MEANINGS = [
    TUNED, NESTED, SLOTS, MODELS, BASES, Meaning("Fine-Tuned", "Base model"), Meaning("tuned_model", "base_model"),
    Meaning("win", "loss"), Meaning("post_a", "post_b"), Meaning("yes", "no"), Meaning("1", "2", "0"),
    Meaning("gewählt", "übrig"),
]  # fmt: skip
PIECES = ["tuned", "un", "A", "B", "base", "line", "model", "_", "-", " ", "\n", ".", '"', "The", "1", "é", "\0", "م"]
TEXTS = st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(MEANINGS), st.booleans())
def test_any_text_has_an_outcome_and_a_reason(raw: str, meaning: Meaning, is_strict: bool) -> None:
    read = read_label(raw, meaning, is_strict)
    assert read.outcome in {"win", "loss", "tie", "unscored"}
    assert (read.how == "") == (raw in meaning)


def distance(one: str, other: str) -> int:
    """Damerau-Levenshtein as its textbook recursion has it, written apart from the code under test."""
    table = {(row, 0): row for row in range(len(one) + 1)} | {(0, column): column for column in range(len(other) + 1)}
    for row in range(1, len(one) + 1):
        for column in range(1, len(other) + 1):
            is_same = one[row - 1] == other[column - 1]
            ways = [table[row - 1, column] + 1, table[row, column - 1] + 1, table[row - 1, column - 1] + (not is_same)]
            if row > 1 and column > 1 and one[row - 2 : row] == other[column - 2 : column][::-1]:
                ways.append(table[row - 2, column - 2] + 1)
            table[row, column] = min(ways)
    return table[len(one), len(other)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abdefilnstu", min_size=1, max_size=10), max_size=6), st.sampled_from([". ", " ", "-", "\n"]))
def test_words_unlike_both_labels_never_win_or_lose(words: list[str], separator: str) -> None:
    text = separator.join(words)
    joined = ["".join(words[first:last]) for first in range(len(words)) for last in range(first + 1, len(words) + 1)]
    assume(all(distance(run, label) > 2 for run in joined for label in TUNED[:2]))
    assert outcome(text) in {"unscored", "tie"}


WRAPPINGS = [
    '"{}"', "“{}”", "'{}'", "`{}`", "**{}**", "_{}_", "{}.", "({})", '{{"winner": "{}"}}', "Answer: {}", " {}\n", "{}",
]  # fmt: skip


def damaged(label: str, chance: random.Random) -> str:
    letters = list(label)
    places = [place for place, both in enumerate(pairwise(letters)) if all(letter.isalpha() for letter in both)]
    if len(re.sub(r"[\W_]", "", label)) >= 6 and places and chance.random() < 0.6:
        place = chance.choice(places)
        letters[place], letters[place + 1] = letters[place + 1], letters[place]
    change_case = chance.choice([str, str.upper, str.title, lambda letter: chance.choice([letter, letter.swapcase()])])
    text = "".join(map(change_case, letters)) if chance.random() < 0.5 else change_case("".join(letters))
    if chance.random() < 0.5:
        text = re.sub(r"[-_ ]", chance.choice(["-", "_", " ", ""]), text)
    if chance.random() < 0.3:
        place = chance.randrange(len(text) + 1)
        text = text[:place] + chance.choice([" ", "  ", "\t"]) + text[place:]
    for _ in range(chance.randrange(3)):
        text = chance.choice(WRAPPINGS).format(text)
    return text


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MEANINGS), st.sampled_from([0, 1, 2]), st.randoms(use_true_random=False))
def test_damaged_label_is_read_correctly_or_unscored(meaning: Meaning, which: int, chance: random.Random) -> None:
    raw = damaged(meaning[which], chance)
    assert outcome(raw, meaning) in {("win", "loss", "tie")[which], "unscored"}


EXPLANATIONS = [
    "because it is vivid", " because it sells", " - stronger hook", ": it opens with a question",
    ". The other lacks one", "The post is better", "\n\nIt is not dull.", ", no doubt", " (better hook)", "",
    ": better than {other}", ". {other} is generic", " | the other fails", "It has a hook, {other} has none",
]  # fmt: skip


def misspelt(label: str, chance: random.Random) -> str:
    """One letter or two left out, doubled, replaced or swapped with the next."""
    for _ in range(chance.choice([1, 1, 2])):
        place = chance.randrange(len(label) - 1)
        letter, following = label[place], label[place + 1]
        way = chance.choice(["", letter * 2, chance.choice("aeiourstln"), None])
        label = label[:place] + (way + following if way is not None else following + letter) + label[place + 2 :]
    return label


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(MEANINGS), st.sampled_from([0, 1]), st.sampled_from(EXPLANATIONS), st.randoms(use_true_random=False)
)
def test_misspelt_label_with_explanation_is_never_read_as_the_other(
    meaning: Meaning, which: int, explanation: str, chance: random.Random
) -> None:
    label, other = meaning[which], meaning[1 - which]
    written = misspelt(label, chance) if len(label) > 4 and chance.random() < 0.7 else label
    assume(distance(written.casefold(), label.casefold()) < distance(written.casefold(), other.casefold()))
    text = chance.choice(["{}", '"{}"', "  {}", "**{}**", "Answer: {}"]).format(
        chance.choice([str, str.upper])(written)
    )
    raw = text + explanation.format(other=other)
    assert outcome(raw, meaning) in {("win", "loss")[which], "unscored"}


@pytest.mark.parametrize(
    "raw",
    [
        "finetuned: dull; I choose the other",
        "finetuned: it does not sell, the other does",
        "finetuned - beaten by the other",
        "finetuned The post is worse than the other.",
        "finetuned: no hook, so the other wins",
    ],
)
def test_explanation_that_contradicts_its_label_is_unscored(raw: str) -> None:
    assert outcome(raw, TUNED) == "unscored"


REJECTIONS = [
    "rejected: {}", '{{"rejected": "{}"}}', "The weakest is {}", "I'd rather avoid {}", "I disagree with {}",
    "{} fails to sell", "{} (loser)", "{}, which lost", "{}: loses clearly", "error: {} endpoint timed out",
    "I reject {}", "timeout while judging {}", "not {}", "worst: {}", "{} is the weaker one", "{} has many errors",
    "anything but {}", "{}: the other is better",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(MEANINGS), st.sampled_from([0, 1]), st.sampled_from(REJECTIONS), st.randoms(use_true_random=False)
)
def test_rejected_label_never_counts_as_chosen(
    meaning: Meaning, which: int, rejection: str, chance: random.Random
) -> None:
    damage = chance.choice([str, str.upper, str.title, '"{}"'.format, " {} ".format, "**{}**".format])
    assert outcome(rejection.format(damage(meaning[which])), meaning) != ("win", "loss")[which]


@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_label_is_always_read(meaning: Meaning, wrapping: str) -> None:
    for label, expected in zip(meaning, ("win", "loss", "tie"), strict=True):
        assert outcome(wrapping.format(label), meaning) == expected


def seconds_to_read(text: str) -> float:
    """Of a core, the least of three readings."""
    seconds = []
    for _ in range(3):
        started = time.process_time()
        read_label(text, TUNED)
        seconds.append(time.process_time() - started)
    return min(seconds)


@pytest.mark.parametrize(
    ("opening", "repeated", "ending"),
    [
        ("", " ", "!"), ("", "finetuned ", ""), ("", "aB", ""), ("", "a ", ""), ("", "finetun ", ""), ("", "-", ""),
        ("", "{", ""), ("a", "\u0300\u0316", ""), ("", "\u202e", ""), ("", "👍", ""), ("", "\0", ""),
        ("", "basel ", "finetuned"), ("finetuned: baseline ", "than baseline ", ""), ("", "answer ", ""),
        ("finetuned. ", "baseline is weaker. ", ""),
    ],
)  # fmt: skip
def test_reading_time_grows_linearly_with_length(opening: str, repeated: str, ending: str) -> None:
    shorter, longer = (f"{opening}{repeated * (size // len(repeated))}{ending}" for size in (10_000, 100_000))
    assert seconds_to_read(longer) < 30 * max(seconds_to_read(shorter), 0.003)
