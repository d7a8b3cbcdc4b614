"""A gate that fails, and a teacher that is rejected, name the commonest reason, examples and the key to change."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.artifacts.explanation import Explanation
from synthpost_dagster.profiles import Profile, load_profile
from synthpost_dagster.quality import gates
from synthpost_dagster.quality.explanations import (
    MAX_EXAMPLES,
    examples_of,
    explained,
    explained_rejections,
    explained_unscored,
    reason_remedy,
    shortened,
    unanswered,
)
from synthpost_dagster.quality.gates import COVERAGE, REPLIES, gates_of
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import kept_rows


@pytest.fixture
def profile(small_task: Task) -> Profile:
    return load_profile("tiny", small_task)


def rejected(task: Task, *reasons: str) -> pd.DataFrame:
    """A rejected reply for each reason, each to a prompt of its own."""
    rows = kept_rows(task, [f"Reply {number} <b>" for number in range(len(reasons))])
    return rows.assign(status="rejected", reason=reasons)


def why(task: Task, profile: Profile, *reasons: str) -> Explanation:
    found = explained_rejections(rejected(task, *reasons), task, profile)
    assert found is not None
    return found


def test_most_frequent_reason_is_given_with_key_and_value(small_task: Task, profile: Profile) -> None:
    found = why(small_task, profile, *["truncated"] * 5, "empty", "refusal", "empty")
    assert found.cause == ("5 of 8 rejected replies were cut off at teacher.sampling.max_new_tokens (320); raise it")
    assert [(one.reason, one.count) for one in found.reasons] == [("truncated", 5), ("empty", 2), ("refusal", 1)]
    assert found.examples == ("“Reply 0 <b>”", "“Reply 1 <b>”", "“Reply 2 <b>”")


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        ("truncated", "teacher.sampling.max_new_tokens (320)"),
        ("max_new_tokens spent on reasoning", "teacher.sampling.max_new_tokens (320)"),
        ("duplicate", "teacher.sampling.temperature (1)"),
        ("near-duplicate", "quality.near_duplicate_jaccard (0.7)"),
        ("shows a holdout product", "holdout.leak.words (8)"),
        ("too few or too many sentences", "quality.band_retries (1)"),
        ("refusal", "teacher.model (embedded)"),
        ("placeholder", "prompts/teacher.j2"),
        ("special token", "teacher.model (embedded)"),
        ("held back by the endpoint's filter", "prompts/teacher.j2"),
        ("refused by the endpoint", "`teacher` in the profile"),
        ("unknown finish reason: abort", "unknown finish reason: abort"),
        ("empty", "teacher.model (embedded)"),
        ("something new", "synthpost rows --rejected"),
    ],
)
def test_every_reason_has_a_remedy(small_task: Task, profile: Profile, reason: str, key: str) -> None:
    assert key in reason_remedy(reason, small_task, profile)


def test_every_gate_has_a_remedy() -> None:
    default = {
        gate.name
        for asset in gates.GATES
        for gate in gates_of(asset)
        if gate.remedy == gates.Gate._field_defaults["remedy"]
    }
    assert default == {"memorisation"}, "memorisation is reported and never fails"


def test_rejected_replies_to_prompts_with_a_kept_row_do_not_count(small_task: Task) -> None:
    first, second = rejected(small_task, "truncated", "empty"), kept_rows(small_task, ["A post."])
    rows = pd.concat([first, second.assign(attempt=1)], ignore_index=True)
    assert unanswered(rows)["reason"].tolist() == ["empty"]


@pytest.mark.parametrize("gate", [REPLIES[0], COVERAGE], ids=lambda gate: gate.name)
def test_gates_on_rows_explain_why_replies_were_rejected(small_task: Task, profile: Profile, gate: gates.Gate) -> None:
    rows = rejected(small_task, *["truncated"] * 8)
    (result,) = gates.evaluate("synthetic_rows", small_task, rows, gate.name, 220)
    found = explained(result, rows, small_task, profile)
    assert found is not None
    assert found.cause.startswith("8 of 8 rejected replies were cut off at")
    assert found.figure == result.figures[gate.figure]
    assert result.model_copy(update={"explanation": found}).sentence("synthetic_rows") == (
        "synthetic_rows: 8 of 8 rejected replies were cut off at teacher.sampling.max_new_tokens (320); raise it"
    )


def test_gate_without_rejected_replies_gives_figure_and_remedy(small_task: Task, profile: Profile) -> None:
    rows = kept_rows(small_task, [*["The same words in one long post of many."] * 7, "Other."])
    (result,) = gates.evaluate("synthetic_rows", small_task, rows, "duplicates", 8)
    found = explained(result, rows, small_task, profile)
    assert found is not None
    assert (found.figure, found.cause, found.remedy) == (6.0, "", "raise teacher.sampling.temperature (1)")
    sentence = result.model_copy(update={"explanation": found}).sentence("synthetic_rows")
    assert sentence.startswith("synthetic_rows failed its check duplicates: 6 of 8 kept posts repeat another")
    assert sentence.endswith("; raise teacher.sampling.temperature (1)")


def test_gate_that_passed_needs_no_explanation(small_task: Task, profile: Profile) -> None:
    rows = kept_rows(small_task, ["One.", "Two."])
    (result,) = gates.evaluate("synthetic_rows", small_task, rows, "duplicates", 2)
    assert explained(result, rows, small_task, profile) is None


def test_personal_data_is_not_repeated_in_examples(small_task: Task, profile: Profile) -> None:
    rows = kept_rows(small_task, ["Write to ann@example.com now."])
    (result,) = gates.evaluate("synthetic_rows", small_task, rows, "personal_data", 1)
    found = explained(result, rows, small_task, profile)
    assert found is not None
    assert found.examples == (f"prompt {rows['prompt_id'].iloc[0]}",)


def test_examples_are_few_different_and_not_empty() -> None:
    rows = pd.DataFrame({"post": ["", "same", "same", "b", "c", "d"], "raw_reply": ["raw", "", "", "", "", ""]})
    assert examples_of([{"post": "", "raw_reply": "", "prompt_id": "e34d"}]) == ("prompt e34d",)
    assert examples_of(rows.to_dict("records")) == ("“raw”", "“same”", "“b”")
    assert len(examples_of(rows.to_dict("records"))) == MAX_EXAMPLES


def test_shortened_text_is_one_printable_line() -> None:
    assert shortened("a\n b\x1b[2J\tc") == "a b\ufffd[2J c"
    long = shortened("x" * 200 + "end", 10, 5)
    assert long == "xxxxxxxxxx … xxend"


def test_reasons_beyond_the_fifth_are_summed(small_task: Task, profile: Profile) -> None:
    found = why(small_task, profile, *["a"] * 3, *["b"] * 2, "c", "d", "e", "f", "g")
    assert found.lines[0] == "reasons: 3 a, 2 b, 1 c, 1 d, 1 e, 2 for other reasons"


def games(judge: str, *reasons: str) -> pd.DataFrame:
    """A game for each reason why it is unscored; an empty one was won."""
    outcomes = ["unscored" if reason else "win" for reason in reasons]
    return pd.DataFrame({"judge": judge, "outcome": outcomes, "reason": reasons, "raw_reply": "I like A"})


def test_judge_with_many_unscored_games_is_explained(small_task: Task, profile: Profile) -> None:
    (found,) = explained_unscored(games("rubric", *["reply cut off"] * 3, ""), small_task, profile)
    assert found.cause.startswith("3 of 4 games of rubric are unscored: 3 replies were cut off at")
    assert "judges.0.sampling.max_new_tokens" in found.cause
    assert (found.figure, found.examples) == (0.75, ("“I like A”",))


def test_few_unscored_games_need_no_explanation(small_task: Task, profile: Profile) -> None:
    assert explained_unscored(games("rubric", "reply cut off", *[""] * 4), small_task, profile) == []
