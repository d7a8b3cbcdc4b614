"""The teacher is asked until every stratum has its share, and never twice for what is known."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from synthpost_dagster.errors import GateFailed
from synthpost_dagster.llm.chat_models import Ask, Tally, Work
from synthpost_dagster.llm.journal import Reply
from synthpost_dagster.quality import gates
from synthpost_dagster.rows.diversity import diversity_table
from synthpost_dagster.rows.prompts import shares, training_prompts
from synthpost_dagster.rows.subsets import subset
from synthpost_dagster.rows.synthesis import EarlyStop, rows_so_far, synthesize
from synthpost_dagster.runtime.progress import SILENT, Event, Progress
from synthpost_dagster.tasks.ids import short_hash
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import EditTask


def described(place: int) -> Callable[[Any], object]:
    """Gives the product at a place of products.yaml another description."""
    return lambda products: products[place].update(description="something else altogether")


Bad = Callable[[str, int], tuple[str, str] | None]


class Teacher:
    """Answers a prompt with a post of its own; `bad` may give another text and finish reason for (prompt, attempt)."""

    name = "fake/teacher"

    def __init__(self, bad: Bad = lambda prompt, attempt: None, model: str = "one") -> None:
        self.identity: dict[str, Any] = {"model": model}
        self.tally = Tally()
        self.bad = bad
        self.asked: list[str] = []
        self.closed = 0

    def answers(self, asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        try:
            for ask in asks:
                prompt = ask.chat[-1]["content"]
                text, finish = self.bad(prompt, self.asked.count(prompt)) or (good_post(prompt), "stop")
                self.asked.append(prompt)
                yield reply_to(ask, text, finish)
        finally:
            self.closed += 1


def good_post(prompt: str) -> str:
    """A post like no other, with as many sentences as the prompt asks for at least."""
    wanted = re.search(r"Length: \w+, (\d+)", prompt)
    return " ".join(f"Post {short_hash(prompt, str(place))}." for place in range(int(wanted[1]) if wanted else 1))


def reply_to(ask: Ask, text: str, finish: str) -> Reply:
    return Reply(ask.key, "fake", "teacher", "teacher", "rows", text, finish, 40, 10, 3, 0.1, 1, 0.0, 0.0, 0.0)


def run(
    task: Task, teacher: Teacher, target: int, known: pd.DataFrame | None = None, attempts: int = 3
) -> pd.DataFrame:
    return synthesize(task, training_prompts(task), teacher, attempts, target, known, SILENT)


def failed_gates(task: Task, made: pd.DataFrame, target: int) -> list[str]:
    varied = diversity_table(kept(made), kept(made), task, 88)
    results = gates.evaluate("synthetic_rows", task, made, target=target, beside={"diversity": varied})
    return [result.message for result in results if not result.is_passed]


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "kept"]


def sizes(rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    return kept(rows).groupby(["post_type", "tone"]).size().to_dict()


def wanted(task: Task, target: int) -> dict[tuple[str, str], int]:
    return {stratum: n for stratum, n in shares(task.capacities("train"), target).items() if n}


@pytest.mark.parametrize("target", [1, 8, 55, 88, 220])
def test_good_teacher_needs_one_reply_per_row(small_task: Task, target: int) -> None:
    teacher = Teacher()
    made = run(small_task, teacher, target)
    assert len(teacher.asked) == len(made) == target
    assert sizes(made) == wanted(small_task, target)
    assert made["rank"].tolist() == list(range(target))
    assert failed_gates(small_task, made, target) == []


def test_row_carries_its_prompt_and_its_reply(small_task: Task) -> None:
    rows = run(small_task, Teacher(lambda prompt, attempt: ("  One.\tTwo. Three. Four. ", "stop")), 1)
    prompt = training_prompts(small_task).iloc[0]
    row = rows.iloc[0]
    assert (row["prompt_id"], row["student_prompt"]) == (prompt["prompt_id"], prompt["student_prompt"])
    assert (row["post"], row["raw_reply"]) == ("One. Two. Three. Four.", "  One.\tTwo. Three. Four. ")
    assert (row["teacher_model"], row["prompt_tokens"], row["completion_tokens"]) == ("fake/teacher", 10, 3)
    assert row["is_in_band"] == (prompt["length"] == "medium")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (("  ", "stop"), "empty"),
        (("Half a sen", "length"), "truncated"),
        (("A post.<|eot_id|>", "stop"), "special token"),
    ],
)
def test_rejected_reply_has_its_reason_and_is_requested_again(
    small_task: Task, reply: tuple[str, str], reason: str
) -> None:
    first = training_prompts(small_task)["teacher_prompt"].iloc[0]
    teacher = Teacher(lambda prompt, attempt: reply if prompt == first and attempt < 2 else None)
    made = run(small_task, teacher, 88)
    tries = made[made["rank"] == 0]
    assert tries["attempt"].tolist() == [0, 1, 2]
    assert tries["reason"].tolist() == [reason, reason, ""]
    assert tries["status"].tolist() == ["rejected", "rejected", "kept"]
    assert tries["raw_reply"].iloc[0] == reply[0]
    assert (len(teacher.asked), len(kept(made))) == (90, 88)
    assert failed_gates(small_task, made, 88) == []


@pytest.mark.parametrize(
    "damaged",
    ["<thought>\na plan\n</thought>\n{}".format, "a plan\n</think>\n{}".format, "```\n{}\n```".format],
    ids=["tag", "closing tag", "fence"],
)
def test_damaged_rows_are_made_again_without_requests(small_task: Task, damaged: Callable[[str], str]) -> None:
    clean = run(small_task, Teacher(), 88)
    before = clean.assign(raw_reply=clean["raw_reply"].map(damaged))
    before = before.assign(post=before["raw_reply"], is_settled=False)
    teacher = Teacher()
    after = run(small_task, teacher, 88, before)
    assert teacher.asked == []
    assert after["post"].tolist() == clean["post"].tolist()
    assert after["raw_reply"].tolist() == before["raw_reply"].tolist(), "what came is kept as it came"


def test_damaged_replies_of_the_journal_give_clean_rows(small_task: Task) -> None:
    made = run(
        small_task, Teacher(lambda prompt, attempt: (f"<thought>\na plan\n</thought>\n{good_post(prompt)}", "stop")), 88
    )
    assert made["post"].tolist() == run(small_task, Teacher(), 88)["post"].tolist()
    assert set(made["status"]) == {"kept"}


@pytest.mark.parametrize("finish", ["reasoning", "unanswered", "refusal", "unknown:tired", "part:image_url"])
def test_rows_of_replies_that_did_not_finish_fit_the_schema(small_task: Task, finish: str) -> None:
    first = training_prompts(small_task)["teacher_prompt"].iloc[0]
    teacher = Teacher(lambda prompt, attempt: ("Half", finish) if prompt == first and attempt < 1 else None)
    made = run(small_task, teacher, 88)
    assert made[made["rank"] == 0]["status"].tolist() == ["rejected", "kept"]
    assert failed_gates(small_task, made, 88) == []


def test_rejected_prompt_is_replaced_by_the_next_of_its_stratum(small_task: Task) -> None:
    prompts = training_prompts(small_task)
    bad = prompts.iloc[3]
    teacher = Teacher(lambda prompt, attempt: ("", "stop") if prompt == bad["teacher_prompt"] else None)
    made = run(small_task, teacher, 88)
    stratum = prompts[(prompts["post_type"] == bad["post_type"]) & (prompts["tone"] == bad["tone"])]
    share = wanted(small_task, 88)[bad["post_type"], bad["tone"]]
    substitute = stratum.iloc[share]["prompt_id"]
    assert substitute in set(kept(made)["prompt_id"])
    assert made.loc[made["prompt_id"] == bad["prompt_id"], "reason"].tolist() == ["empty"] * 3
    assert sizes(made) == wanted(small_task, 88)
    assert len(kept(made)) == 88
    assert len(teacher.asked) == 88 + 3


def test_single_attempt_requests_no_reply_again(small_task: Task) -> None:
    first = training_prompts(small_task)["teacher_prompt"].iloc[0]
    teacher = Teacher(lambda prompt, attempt: ("", "stop") if prompt == first else None)
    made = run(small_task, teacher, 88, attempts=1)
    assert teacher.asked.count(first) == 1
    assert len(kept(made)) == 88


def test_later_of_two_equal_posts_is_the_duplicate(small_task: Task) -> None:
    prompts = training_prompts(small_task)["teacher_prompt"]
    same = {prompts.iloc[2]: "The same post.", prompts.iloc[7]: "the SAME post"}
    teacher = Teacher(lambda prompt, attempt: (same[prompt], "stop") if prompt in same and attempt == 0 else None)
    made = run(small_task, teacher, 8)
    by_rank = {rank: group["reason"].tolist() for rank, group in made.groupby("rank")}
    assert by_rank[2] == [""]
    assert by_rank[7] == ["duplicate", ""]
    assert len(kept(made)) == 8


def test_growing_requests_only_missing_rows_and_keeps_the_rest(small_task: Task) -> None:
    small = run(small_task, Teacher(), 88)
    teacher = Teacher()
    grown = run(small_task, teacher, 176, small)
    assert len(teacher.asked) == 88
    pd.testing.assert_frame_equal(small, grown[grown["rank"] < 88].reset_index(drop=True), check_like=True)
    assert sizes(grown) == wanted(small_task, 176)
    pd.testing.assert_frame_equal(subset(small_task, small, 88), subset(small_task, grown, 88))


def test_growing_in_steps_equals_one_run(small_task: Task) -> None:
    rows = None
    for target in (8, 88, 176, 220):
        rows = run(small_task, Teacher(), target, rows)
    pd.testing.assert_frame_equal(rows, run(small_task, Teacher(), 220))


def test_new_row_that_repeats_a_kept_one_is_the_duplicate(small_task: Task, edit_task: EditTask) -> None:
    full = run(small_task, Teacher(), 220)

    edited = edit_task("products.yaml", described(0))
    prompts = training_prompts(edited)
    new = prompts[prompts["student_prompt"].str.contains("something else altogether")].iloc[0]
    old = full[(full["product"] != new["product"]) & (full["length"] == new["length"])].iloc[-1]
    assert new["rank"] < old["rank"]
    repeats = new["teacher_prompt"]
    teacher = Teacher(lambda prompt, attempt: (old["post"], "stop") if prompt == repeats and attempt == 0 else None)
    again = run(edited, teacher, 220, full.assign(is_settled=True))
    assert again.loc[again["rank"] == new["rank"], "reason"].tolist() == ["duplicate", ""]
    assert again.loc[again["rank"] == old["rank"], "status"].tolist() == ["kept"]
    assert len(teacher.asked) == 56


def test_rejected_replies_are_known_too_and_not_paid_for_twice(small_task: Task) -> None:
    first = training_prompts(small_task)["teacher_prompt"].iloc[0]
    small = run(small_task, Teacher(lambda prompt, attempt: ("", "stop") if prompt == first else None), 88)
    teacher = Teacher()
    again = run(small_task, teacher, 88, small)
    assert (teacher.asked, teacher.closed) == ([], 0)
    pd.testing.assert_frame_equal(small, again)


def test_refused_requests_are_sent_again_in_the_next_run(small_task: Task) -> None:
    refusing = Teacher(lambda prompt, attempt: ("400: too long", "refused"))
    failed = run(small_task, refusing, 88)
    assert failed_gates(small_task, failed, 88) != []
    mended = Teacher()
    made = run(small_task, mended, 88, known=failed)
    assert len(mended.asked) == 88
    assert failed_gates(small_task, made, 88) == []


def test_editing_one_products_text_asks_for_its_55_rows_alone(small_task: Task, edit_task: EditTask) -> None:
    full = run(small_task, Teacher(), 220)

    edited = edit_task("products.yaml", described(1))
    name = edited.items[1].name
    teacher = Teacher()
    again = run(edited, teacher, 220, full)
    assert len(teacher.asked) == 55
    assert all("something else altogether" in prompt for prompt in teacher.asked)
    others = again[again["product"] != name].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, full[full["product"] != name].reset_index(drop=True))


def test_another_teacher_gets_all_requests(small_task: Task) -> None:
    small = run(small_task, Teacher(), 88)
    other = Teacher(model="two")
    run(small_task, other, 88, small)
    assert len(other.asked) == 88


def test_exhausted_stratum_ends_and_the_others_are_filled(small_task: Task) -> None:
    teacher = Teacher(
        lambda prompt, attempt: ("", "stop") if "Post type: Question" in prompt and "Witty" in prompt else None
    )
    made = run(small_task, teacher, 88, attempts=2)
    share = wanted(small_task, 88)
    assert ("Question", "Witty") in share
    assert sizes(made) == {s: n for s, n in share.items() if s != ("Question", "Witty")}
    lost = made[(made["post_type"] == "Question") & (made["tone"] == "Witty")]
    assert (lost["prompt_id"].nunique(), len(lost), set(lost["status"])) == (4, 8, {"rejected"})


def test_teacher_without_kept_rows_is_stopped_after_50_prompts(small_task: Task) -> None:
    teacher = Teacher(lambda prompt, attempt: ("", "stop"))
    made = run(small_task, teacher, 220, attempts=2)
    assert len(teacher.asked) == 64 + 50
    assert kept(made).empty


@pytest.mark.parametrize("target", [8, 88])
def test_teacher_with_empty_replies_is_stopped_and_fails_the_gate(
    sales_posts: Task, all_prompts: pd.DataFrame, target: int
) -> None:
    teacher = Teacher(lambda prompt, attempt: ("", "stop"))
    made = synthesize(sales_posts, all_prompts, teacher, 3, target, None, SILENT)
    assert len(teacher.asked) == len(made) < 300
    assert teacher.closed > 0
    (gate,) = gates.evaluate("synthetic_rows", sales_posts, made, "rejected_share", target)
    assert not gate.is_passed
    assert gate.message.startswith("100.0% of the prompts stayed rejected")


def test_prompts_that_read_alike_have_replies_of_their_own(small_task: Task) -> None:
    wording = small_task.sources["teacher"].replace("Tone: {{ tone }}", "")
    task = replace(small_task, sources={**small_task.sources, "teacher": wording})
    assert training_prompts(task)["teacher_prompt"].nunique() < 220
    number = itertools.count()
    made = run(task, Teacher(lambda prompt, attempt: (good_post(f"{prompt} {next(number)}"), "stop")), 88)
    assert len(made) == len(kept(made)) == made["reply_key"].nunique() == 88
    assert failed_gates(task, made, 88) == []


def test_target_above_the_number_of_prompts_gives_all_rows(small_task: Task) -> None:
    assert len(kept(run(small_task, Teacher(), 1_000))) == 220


def test_progress_counts_kept_rows_up_to_those_that_can_be_had(small_task: Task) -> None:
    events: list[Event] = []
    prompts = training_prompts(small_task)
    synthesize(small_task, prompts, Teacher(), 3, 1_000, None, Progress(events.append))
    assert events[-1] == Event("synthetic rows kept", 220, 220, "rows", is_milestone=True)


def limited(task: Task, **limits: float) -> Task:
    """The task with other limits."""
    quality = task.spec.quality.model_copy(update=limits)
    return replace(task, spec=task.spec.model_copy(update={"quality": quality}))


def test_leaking_post_is_requested_again(small_task: Task) -> None:
    first = training_prompts(small_task)["teacher_prompt"].iloc[0]
    holdout = next(item for item in small_task.items if item.split == "holdout")
    leaking = f"{good_post(first)} Or take the {holdout.name}!"
    teacher = Teacher(lambda prompt, attempt: (leaking, "stop") if prompt == first and attempt == 0 else None)
    made = run(small_task, teacher, 8)
    assert made.loc[made["rank"] == 0, "reason"].tolist() == ["shows a holdout product", ""]


TWICE = " ".join(f"word{number}" for number in range(80)) + "."


def test_near_duplicate_is_requested_again(small_task: Task) -> None:
    prompts = training_prompts(small_task)["teacher_prompt"]
    same = {prompts.iloc[2]: TWICE, prompts.iloc[7]: f"{TWICE} Now."}
    teacher = Teacher(lambda prompt, attempt: (same[prompt], "stop") if prompt in same and attempt == 0 else None)
    made = run(limited(small_task, band_retries=0), teacher, 8)
    assert made.loc[made["rank"] == 7, "reason"].tolist() == ["near-duplicate", ""]


def test_post_of_the_wrong_length_is_kept_after_band_retries(small_task: Task) -> None:
    first = training_prompts(small_task).iloc[0]
    assert first["length"] != "long"
    long = " ".join(f"Sentence {place} is here." for place in range(1, 60))
    replies = {first["teacher_prompt"]: long}
    teacher = Teacher(lambda prompt, attempt: (f"{replies[prompt]} {attempt}", "stop") if prompt in replies else None)
    for retries in (0, 1, 2):
        made = run(limited(small_task, band_retries=retries), teacher, 8)
        tries = made[made["rank"] == 0]
        assert tries["reason"].tolist() == [*["too few or too many sentences"] * retries, ""]
        assert not tries["is_in_band"].any()


@pytest.mark.parametrize("changed", [{"band_retries": 0}, {"near_duplicate_jaccard": 0.99}])
def test_known_replies_under_a_changed_limit_equal_a_fresh_run(small_task: Task, changed: dict[str, float]) -> None:
    prompts = training_prompts(small_task)["teacher_prompt"]
    same = {prompts.iloc[2]: TWICE, prompts.iloc[7]: f"{TWICE} Now."}

    def repeating() -> Teacher:
        """Says the same to a prompt however often it is asked."""
        return Teacher(lambda prompt, attempt: (same.get(prompt, f"Post {short_hash(prompt)}."), "stop"))

    task = limited(small_task, **changed)
    before = run(small_task, repeating(), 88)
    again = run(task, repeating(), 88, before.assign(is_settled=False))
    assert again["reason"].tolist() != before["reason"].tolist()
    pd.testing.assert_frame_equal(again, run(task, repeating(), 88))


def test_settled_row_stays_after_its_neighbour_is_gone(small_task: Task, edit_task: EditTask) -> None:
    prompts = training_prompts(small_task)
    name = small_task.items[1].name
    old = prompts[prompts["product"] == name].iloc[0]
    other = prompts[(prompts["product"] != name) & (prompts["rank"] > old["rank"])].iloc[0]
    same = {old["teacher_prompt"]: TWICE, other["teacher_prompt"]: f"{TWICE} Now."}
    teacher = Teacher(lambda prompt, attempt: (same[prompt], "stop") if prompt in same and attempt == 0 else None)
    full = run(limited(small_task, band_retries=0), teacher, 220)
    assert full.loc[full["prompt_id"] == other["prompt_id"], "reason"].tolist() == ["near-duplicate", ""]

    edited = limited(edit_task("products.yaml", described(1)), band_retries=0)
    fresh = Teacher()
    again = run(edited, fresh, 220, full.assign(is_settled=True))
    assert len(fresh.asked) == 55
    untouched = again[again["product"] != name].reset_index(drop=True)
    pd.testing.assert_frame_equal(untouched, full[full["product"] != name].reset_index(drop=True))


def test_settled_length_misses_count_as_band_retries(small_task: Task) -> None:
    first = training_prompts(small_task)["teacher_prompt"].iloc[0]
    long = " ".join(f"Sentence {place} is here." for place in range(1, 60))
    teacher = Teacher(lambda prompt, attempt: (f"{long} {attempt}", "stop") if prompt == first else None)
    made = run(small_task, teacher, 8)
    misses = made[(made["rank"] == 0) & (made["attempt"] == 0)].assign(is_settled=True)
    assert misses["reason"].tolist() == ["too few or too many sentences"]
    again = run(small_task, Teacher(teacher.bad), 8, misses)
    assert again[again["rank"] == 0]["attempt"].tolist() == [0, 1]


def stopping(task: Task, teacher: Teacher, target: int, is_bounded: bool = True) -> pd.DataFrame:
    """Rows of a teacher that is stopped after a bad start."""

    def stop(rows: pd.DataFrame) -> None:
        raise GateFailed(f"{len(rows)} rows")

    early = EarlyStop(stop, is_bounded)
    return synthesize(task, training_prompts(task), teacher, 3, target, None, SILENT, early)


def cut_off(share: float) -> Teacher:
    """A teacher of which so many of the first twenty replies are cut off."""
    count = itertools.count()
    return Teacher(lambda prompt, attempt: ("Half a sen", "length") if next(count) < 20 * share else None)


def test_teacher_with_a_bad_start_is_stopped_after_20_replies(small_task: Task) -> None:
    teacher = cut_off(0.85)
    with pytest.raises(GateFailed, match=r"^20 rows$"):
        stopping(small_task, teacher, 88)
    assert len(teacher.asked) == 20


class Eager(Teacher):
    """Sends all asks before it hands out the first reply, as an endpoint with many requests in flight does."""

    def answers(self, asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        yield from list(super().answers(asks, work))


@pytest.mark.parametrize(("is_bounded", "asked"), [(True, 20), (False, 64)])
def test_bounded_start_asks_for_no_more_than_the_first_replies(small_task: Task, is_bounded: bool, asked: int) -> None:
    teacher = Eager(lambda prompt, attempt: ("", "stop"))
    with pytest.raises(GateFailed, match=r"^20 rows$"):
        stopping(small_task, teacher, 88, is_bounded)
    assert len(teacher.asked) == asked


def test_80_percent_of_the_first_replies_are_not_too_many(small_task: Task) -> None:
    assert len(kept(stopping(small_task, cut_off(0.8), 88))) == 88


def test_start_that_is_bad_for_several_reasons_is_no_stop(small_task: Task) -> None:
    count = itertools.count()
    bad = Teacher(
        lambda prompt, attempt: (("", "stop"), ("Half", "length"))[n % 2] if (n := next(count)) < 20 else None
    )
    assert len(kept(stopping(small_task, bad, 88))) == 88


def test_wrong_lengths_at_the_start_stop_nothing(small_task: Task) -> None:
    long = " ".join(f"Sentence {place} is here." for place in range(1, 60))
    teacher = Teacher(lambda prompt, attempt: (f"{long} {short_hash(prompt, str(attempt))}.", "stop"))
    loose = limited(small_task, near_duplicate_jaccard=1.0)
    assert len(kept(stopping(loose, teacher, 88))) == 88


@pytest.mark.parametrize("is_bounded", [True, False])
def test_good_start_changes_nothing_about_the_table(small_task: Task, is_bounded: bool) -> None:
    first = training_prompts(small_task)["teacher_prompt"].iloc[3]
    bad: Bad = lambda prompt, attempt: ("", "stop") if prompt == first and attempt == 0 else None  # noqa: E731
    pd.testing.assert_frame_equal(stopping(small_task, Teacher(bad), 88, is_bounded), run(small_task, Teacher(bad), 88))


def test_replies_that_are_there_make_rows_without_the_teacher(small_task: Task) -> None:
    teacher = cut_off(1.0)
    replies: dict[str, Reply] = {}
    answers = teacher.answers

    def kept_answers(asks: Iterable[Ask], work: Work) -> Generator[Reply, None, None]:
        for reply in answers(asks, work):
            replies[reply.key] = reply
            yield reply

    teacher.answers = kept_answers  # type: ignore[method-assign]
    with pytest.raises(GateFailed):
        stopping(small_task, teacher, 88)

    def find(keys: Sequence[str]) -> dict[str, Reply]:
        return {key: replies[key] for key in keys if key in replies}

    prompts = training_prompts(small_task)
    rows = rows_so_far(small_task, prompts, teacher, 3, 88, None, find)
    assert rows["reason"].tolist() == ["truncated"] * 20
    assert len(teacher.asked) == 20
    assert rows_so_far(small_task, prompts, Teacher(model="two"), 3, 88, None, find).empty
