"""Tasks of other forms: items from any file, levels from the item, no factors, exclusions, samples, every holdout."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.judging.criteria import criteria_met
from synthpost_dagster.rows.prompts import catalog_table, evaluation_prompts, strata_in, training_prompts
from synthpost_dagster.rows.rejection import Rejection
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.prompting import briefs_by_id, judge_prompt, render_prompt
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import write_yaml

REVIEWS = [
    {
        "review": f"Das Zimmer {number} war {mood}.",
        "reference": f"Danke {number}.",
        "sentiment": mood,
        "id": f"r{number}",
    }
    for number, mood in enumerate(["gut", "gut", "schlecht", "gut", "schlecht", "gut"] * 4)
]
HOTEL: dict[str, Any] = {
    "format": 2,
    "name": "hotel_replies",
    "description": "Antworten auf Gästebewertungen.",
    "language": "de",
    "words": {"output": ["antwort", "antworten"], "item": ["bewertung", "bewertungen"]},
    "items": {
        "from": "items.jsonl",
        "fields": {"review": {"type": "text"}, "reference": {"type": "text", "show": ["judge"]}},
    },
    "factors": {
        "sentiment": {"from": "item", "levels": {"gut": {}, "schlecht": {"criteria": ["apologises"]}}},
        "channel": {"levels": {"booking": {"length": "short"}, "google": None}},
    },
    "lengths": {"default": {"unit": "words", "max": 40}, "short": {"unit": "characters", "min": 5, "max": 60}},
    "holdout": {"by": "item", "share": 0.3, "leak": {"fields": ["review"], "words": 4}},
    "criteria": {
        "apologises": {"text": "Bitte um Entschuldigung.", "check": {"kind": "phrases", "any": ["Entschuldigung"]}},
        "brief": {"text": "Halte die Länge ein.", "check": {"kind": "length"}},
    },
    "always": ["brief"],
    "sweep": {"data_sizes": [4, 8], "steps": [2, "1-epoch"]},
    "evaluation": {"prompts": 6},
    "quality": {"max_rejected_share": 0.2},
}
PROMPTS = {
    "teacher": "{{ bewertung.review }} {{ channel }} {{ length.text }}{% for c in criteria %} {{ c.id }}{% endfor %}",
    "student": "{{ bewertung.review }} {{ channel }}",
    "judge": "{{ bewertung.review }} {{ bewertung.reference }} {{ post_a }} {{ post_b }} {{ fence }}",
}
MakeTask = Callable[..., Task]


@pytest.fixture
def make(tmp_path: Path) -> MakeTask:
    """Writes the hotel's task with other keys and loads it; a list becomes items.jsonl."""

    def write(entries: list[dict[str, Any]] | None = None, **changes: Any) -> Task:
        folder = tmp_path / "hotel"
        (folder / "prompts").mkdir(parents=True, exist_ok=True)
        prompts = PROMPTS | changes.pop("prompts", {})
        for role, text in prompts.items():
            (folder / "prompts" / f"{role}.j2").write_text(text, encoding="utf-8")
        lines = [json.dumps(entry) for entry in (REVIEWS if entries is None else entries)]
        (folder / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
        write_yaml(folder / "task.yaml", HOTEL | changes)
        return load_task(str(folder))

    return write


def test_levels_from_the_item_are_not_crossed(make: MakeTask) -> None:
    task = make()
    table = training_prompts(task)
    assert list(table.columns)[:5] == ["prompt_id", "bewertung", "sentiment", "channel", "length"]
    assert table.groupby("bewertung")["sentiment"].nunique().unique().tolist() == [1]
    assert table.groupby("bewertung")["channel"].nunique().unique().tolist() == [2]
    assert len(table) + task.evaluation_prompts == 2 * len(REVIEWS)


def test_strata_without_enough_items_leave_their_share_to_others(make: MakeTask) -> None:
    task = make()
    counts = Counter(zip(*(training_prompts(task).head(20)[name] for name in ("sentiment", "channel")), strict=True))
    assert sum(counts.values()) == 20
    assert {stratum: counts[stratum] for stratum in task.strata} == {
        ("gut", "booking"): 7,
        ("gut", "google"): 7,
        ("schlecht", "booking"): 3,
        ("schlecht", "google"): 3,
    }
    assert task.capacities("train")["schlecht", "booking"] == 3


def test_holdout_by_item_keeps_all_prompts_of_an_item_together(make: MakeTask) -> None:
    task = make()
    train, holdout = training_prompts(task), evaluation_prompts(task, task.evaluation_prompts)
    assert not set(train["bewertung"]) & set(holdout["bewertung"])
    assert 2 <= holdout["bewertung"].nunique() <= 12
    more = [*REVIEWS, {"review": "Neu.", "reference": "Danke.", "sentiment": "gut", "id": "new"}]
    after = {item.name: item.split for item in make(more).items}
    assert {item.name: after[item.name] for item in task.items} == {item.name: item.split for item in task.items}


def test_holdout_by_a_factor_divides_the_prompts_of_each_item(make: MakeTask) -> None:
    task = make(holdout={"by": "channel", "levels": ["google"]})
    train, holdout = training_prompts(task), evaluation_prompts(task, 24)
    assert set(train["channel"]) == {"booking"}
    assert set(holdout["channel"]) == {"google"}
    assert set(holdout["bewertung"]) <= set(train["bewertung"])


def test_holdout_by_group_keeps_a_group_together(make: MakeTask) -> None:
    entries = [entry | {"hotel": f"Hotel {number % 6}"} for number, entry in enumerate(REVIEWS)]
    groups = {"from": [{"name": f"Hotel {number}"} for number in range(6)], "fields": {"name": {"type": "name"}}}
    task = make(
        entries,
        words=HOTEL["words"] | {"group": ["hotel", "hotels"]},
        items=HOTEL["items"] | {"groups": groups},
        holdout={"by": "group", "share": 0.4},
    )
    train, holdout = training_prompts(task), evaluation_prompts(task, task.evaluation_prompts)
    assert train["hotel"].nunique() + holdout["hotel"].nunique() == 6
    assert not set(train["hotel"]) & set(holdout["hotel"])
    assert list(catalog_table(task)["hotel_name"][:2]) == ["Hotel 0", "Hotel 1"]


def test_excluded_combinations_have_no_prompts(make: MakeTask) -> None:
    task = make(exclude=[{"sentiment": "schlecht", "channel": ["google"]}, {"bewertung": "r0"}])
    table = training_prompts(task)
    assert not ((table["sentiment"] == "schlecht") & (table["channel"] == "google")).any()
    assert "r0" not in set(table["bewertung"])
    assert ("schlecht", "google") not in task.strata


def test_samples_of_a_prompt_have_ids_of_their_own(make: MakeTask) -> None:
    one, three = training_prompts(make()), training_prompts(make(samples_per_prompt=3))
    assert len(three) == 3 * len(one)
    assert set(one["prompt_id"]) < set(three["prompt_id"])
    assert three["prompt_id"].is_unique
    assert three["teacher_prompt"].nunique() == one["teacher_prompt"].nunique()


def test_task_without_factors_lengths_and_criteria_has_one_stratum(make: MakeTask) -> None:
    entries = [{name: entry[name] for name in ("id", "review", "reference")} for entry in REVIEWS]
    plain = "{{ bewertung.review }}"
    task = make(entries, factors={}, lengths={}, criteria={}, always=[], prompts={"teacher": plain, "student": plain})
    table = training_prompts(task)
    assert list(table.columns) == [
        "prompt_id",
        "bewertung",
        "teacher_prompt",
        "student_prompt",
        "stratum_rank",
        "rank",
    ]
    assert (task.strata, len(table) + task.evaluation_prompts) == ([()], len(REVIEWS))
    assert Rejection(task, 1).judge(table.iloc[0].to_dict(), 0, "key", "Danke!", "stop").is_in_band


def test_templates_see_the_fields_that_are_shown_to_them(make: MakeTask) -> None:
    task = make()
    brief = next(iter(briefs_by_id(task).values()))
    assert "Danke 0." in judge_prompt(task, brief, "a", "b", may_tie=True)
    with pytest.raises(SpecError, match=r"student.j2: .*reference"):
        make(prompts={"student": "{{ bewertung.reference }}"})


def test_length_in_other_units_is_stated_and_checked(make: MakeTask) -> None:
    task = make()
    briefs = {brief.levels[1]: brief for brief in briefs_by_id(task).values()}
    assert "short, 5 to 60 characters" in render_prompt(task, "teacher", briefs["booking"])
    assert "at most 40 words" in render_prompt(task, "teacher", briefs["google"])
    text = "Wort " * 41
    assert [criteria_met(text, briefs[name], task)["brief"] for name in ("booking", "google")] == [False, False]
    assert [criteria_met("Danke sehr!", briefs[name], task)["brief"] for name in ("booking", "google")] == [True, True]


def test_criteria_of_a_level_apply_to_its_prompts_alone(make: MakeTask) -> None:
    task = make()
    found = {brief.levels[0]: set(criteria_met("x", brief, task)) for brief in briefs_by_id(task).values()}
    assert found == {"gut": {"brief"}, "schlecht": {"brief", "apologises"}}


def test_items_in_csv_yaml_jsonl_and_inline_are_the_same(make: MakeTask) -> None:
    expected = make().items
    folder = make().folder
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(REVIEWS[0]))
        writer.writeheader()
        writer.writerows(REVIEWS)
    write_yaml(folder / "items.yaml", REVIEWS)
    for source in ("items.csv", "items.yaml", REVIEWS):
        assert make(items=HOTEL["items"] | {"from": source}).items == expected


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\n", '"', "\ufeff"])
@pytest.mark.parametrize("source", ["items.csv", "items.jsonl"])
def test_line_breaks_and_quotes_within_a_text_are_kept(make: MakeTask, source: str, sign: str) -> None:
    folder = make().folder
    entries = [entry | {"review": f"Das{sign}Zimmer {place}."} for place, entry in enumerate(REVIEWS)]
    lines = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)
    write_yaml(folder / "task.yaml", HOTEL | {"items": HOTEL["items"] | {"from": source}})
    (folder / "items.jsonl").write_text(lines, encoding="utf-8")
    assert load_task(str(folder)).items[3].values["review"] == f"Das{sign}Zimmer 3."


def test_strata_in_another_order_are_those_of_the_factors(make: MakeTask) -> None:
    task, other = make(), make(strata=["channel", "sentiment"])
    assert other.spec.strata_factors == ("sentiment", "channel")
    assert other.strata == task.strata
    assert strata_in(other, training_prompts(other)) == strata_in(task, training_prompts(task))
    assert make(strata=["channel"]).strata == [("booking",), ("google",)]


@pytest.mark.parametrize("name", ["sentiment", "split"])
def test_field_with_the_name_of_another_column_is_refused(make: MakeTask, name: str) -> None:
    fields = HOTEL["items"]["fields"] | {name: {"type": "text"}}
    with pytest.raises(SpecError, match=rf"items.fields: {name} is a column of the items already"):
        make(items=HOTEL["items"] | {"fields": fields}, holdout={"by": "split"})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("items.jsonl", '{"id": "a"\n', "line 1: not JSON"),
        ("items.jsonl", "[1]\n", "line 1: a mapping of fields is expected"),
        ("items.jsonl", '{"id": "a", "review": 1.5, "reference": "x", "sentiment": "gut"}', "review: 1.5 is no text"),
        ("items.jsonl", "", "items is empty"),
        ("items.csv", "id,review\na,b,c\n", "line 2: another number of values than the header has"),
        ("items.csv", 'id,review\n"a,b\n', "not CSV"),
        ("items.txt", "a", "write .jsonl, .csv or .yaml"),
    ],
)
def test_malformed_files_of_items_are_refused_with_their_line(make: MakeTask, name: str, text: str, said: str) -> None:
    folder = make().folder
    (folder / name).write_text(text, encoding="utf-8")
    task = HOTEL | {"items": HOTEL["items"] | {"from": name}}
    write_yaml(folder / "task.yaml", task)
    with pytest.raises(SpecError) as caught:
        load_task(str(folder))
    assert str(caught.value).startswith(str(folder / name))
    assert said in str(caught.value)
