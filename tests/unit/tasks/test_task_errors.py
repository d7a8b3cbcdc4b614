"""A task that is wrong gives one error that names the file, the key and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthpost_dagster.errors import SpecError
from synthpost_dagster.profiles import load_task_and_profile
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.task import Task
from tests.helpers.small_task import EditTask


def error_of(task: Task) -> str:
    """The message that loading the task's folder gives."""
    with pytest.raises(SpecError) as caught:
        load_task(str(task.folder))
    return str(caught.value)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def set_in(*path: Any) -> Callable[[Any], None]:
    """`set_in("sweep", "data_sizes", [1])` sets that key; places in a list count as keys."""

    def change(content: Any) -> None:
        for part in path[:-2]:
            content = content[part]
        content[path[-2]] = path[-1]

    return change


LEVELS = ("factors", "post_type", "levels")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("task.yaml", set_in("factorz", {}), ["unknown key factorz", "did you mean factors?"]),
        ("task.yaml", set_in("format", 1), ["format:"]),
        ("task.yaml", set_in("quality", "max_lies", 1), ["unknown key quality.max_lies"]),
        ("task.yaml", set_in(*LEVELS, "Question", "colour", "red"), ["factors.post_type.levels.Question.colour"]),
        ("task.yaml", set_in("criteria", "hook", "check", "max_wordz", 3), ["criteria.hook.check.max_wordz"]),
        ("task.yaml", set_in("criteria", "hook", "check", "kind", "mood"), ["criteria.hook.check"]),
        ("task.yaml", set_in("name", "Sales Posts"), ["name:"]),
        ("task.yaml", set_in("factors", "tone", "levels", ["Witty", "Witty"]), ["Witty is named twice"]),
        ("task.yaml", set_in("factors", "mood", {"levels": []}), ["factors.mood.levels:"]),
        ("task.yaml", set_in("factors", "reason", {"levels": ["a"]}), ["reason is a column of the tables"]),
        ("task.yaml", set_in("factors", "product", {"levels": ["a"]}), ["product is used twice"]),
        ("task.yaml", set_in("sweep", "data_sizes", [88, 8]), ["sweep.data_sizes:", "ascending"]),
        ("task.yaml", set_in("sweep", "steps", [50, "epoch"]), ["sweep.steps:", "'epoch'"]),
        ("task.yaml", set_in("sweep", "steps", [50, "50"]), ["sweep.steps:"]),
        ("task.yaml", set_in("sweep", "data_sizes", [88, 221]), ["sweep.data_sizes:", "221", "220", "add products"]),
        ("task.yaml", set_in("evaluation", "prompts", 111), ["evaluation.prompts:", "111", "110", "holdout"]),
        ("task.yaml", set_in("quality", "max_rejected_share", 1.1), ["quality.max_rejected_share:"]),
        ("task.yaml", set_in(*LEVELS, "Question", "length", "huge"), ["length: huge is none of long, medium, short"]),
        ("task.yaml", set_in("factors", "tone", "levels", {"Dry": {"length": "short"}}), ["only one factor"]),
        ("task.yaml", set_in(*LEVELS, "Question", {}), ["some prompts have no length", "default"]),
        ("task.yaml", set_in("lengths", "short", "min", 9), ["lengths.short: max is below min"]),
        ("task.yaml", set_in("criteria", "offer", "check", "regex", "(unclosed"), ["not a regular expression"]),
        ("task.yaml", set_in(*LEVELS, "Question", "criteria", ["hook"]), ["criterion hook occurs twice", "always"]),
        ("task.yaml", set_in(*LEVELS, "Question", "criteria", ["charm"]), ["charm is none of"]),
        ("task.yaml", set_in("always", ["charm"]), ["always: charm is none of"]),
        ("task.yaml", set_in("strata", ["mood"]), ["strata: mood is none of post_type, tone"]),
        ("task.yaml", set_in("exclude", [{"tone": "Angry"}]), ["exclude[0].tone: Angry is none of"]),
        ("task.yaml", set_in("holdout", {"by": "item"}), ["holdout: by: item needs a share"]),
        ("task.yaml", set_in("holdout", {"by": "tone"}), ["needs the `levels`"]),
        ("task.yaml", set_in("holdout", {"by": "weather", "levels": ["wet"]}), ["holdout.by: weather is none of"]),
        ("task.yaml", set_in("holdout", "leak", "fields", ["price"]), ["holdout.leak.fields: price is none of"]),
        ("task.yaml", set_in("criteria", "consistent_branding", "check", "of", ["shop.name"]), ["shop.name is none"]),
        ("companies.yaml", set_in(0, "name", "a|b"), ["line 1: name: 'a|b' is no name"]),
        ("companies.yaml", set_in(1, "name", "PEDROWICK"), ["company 'PEDROWICK' occurs twice, first in line 1"]),
        ("companies.yaml", set_in(1, "colour", "red"), ["unknown field colour", "declared: name, industry"]),
        ("companies.yaml", lambda companies: companies[1].pop("mission"), ["the field mission is missing"]),
        ("products.yaml", set_in(0, "company", "Nobody"), ["company 'Nobody' is none of Pedrowick"]),
        ("products.yaml", set_in(0, "split", "test"), ["split 'test' is none of train, holdout"]),
        ("products.yaml", set_in(0, "description", " "), ["description: has 0 characters"]),
        ("products.yaml", set_in(0, "description", ["a"]), ["description: ['a'] is no text"]),
        ("products.yaml", set_in(3, "name", "harbour CRUISER"), ["'harbour CRUISER' occurs twice, first in line 1"]),
    ],
)
def test_wrong_key_is_named_with_its_file(
    edit_task: EditTask, small_task: Task, file: str, change: Callable[[dict[str, Any]], None], said: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        edit_task(file, change)
    message = str(caught.value)
    assert message.startswith(f"{small_task.folder / file}: ")
    assert [part for part in said if part not in message] == []
    assert "\n" not in message


def test_all_mistakes_of_a_task_are_reported_at_once(small_task: Task) -> None:
    folder = small_task.folder
    task = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
    task["factor"] = task.pop("factors")
    task["quality"]["max_rejected_share"] = "often"
    task["criteria"]["concise"]["check"]["kinds"] = 1
    (folder / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    (folder / "prompts" / "judge.j2").unlink()
    lines = error_of(small_task).split("\n")
    said = [
        ("task.yaml", "unknown key criteria.concise.check.kinds;", "the keys here are kind (line "),
        ("task.yaml", "unknown key factor;", "(did you mean factors?)", "sweep, evaluation, quality (line "),
        ("task.yaml", "quality.max_rejected_share: ", "valid number", "(line "),
        ("judge.j2", "this template is missing"),
    ]
    assert len(lines) == len(said)
    for parts in said:
        assert [line for line in lines if all(part in line for part in parts)], parts


def test_all_invalid_templates_are_reported_at_once(small_task: Task) -> None:
    for role in ("teacher", "judge"):
        append(small_task.folder / "prompts" / f"{role}.j2", "\n{{ slogan }}")
    lines = error_of(small_task).split("\n")
    assert [line.split("/")[-1].split(":")[0] for line in lines] == ["teacher.j2", "judge.j2"]


def test_mistakes_of_task_and_profile_are_reported_together(small_task: Task, tmp_path: Path) -> None:
    append(small_task.folder / "task.yaml", "colour: red\n")
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: tiny\ntraining:\n  seed: 1\n  lora: {rank: 8}\nbudget: .inf\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_task_and_profile(str(small_task.folder), str(profile))
    lines = str(caught.value).split("\n")
    assert [line.split("; ")[0].split("/")[-1] for line in lines] == [
        "task.yaml: unknown key colour",
        "mine.yaml: unknown key training.lora.rank",
        "mine.yaml: budget: Input should be a finite number (line 5)",
    ]
    assert lines[1].endswith("the keys here are r, alpha, dropout, bias, target_modules (line 4)")


def test_names_equal_in_normal_form_are_duplicates(edit_task: EditTask) -> None:
    def rename(products: list[dict[str, Any]]) -> None:
        products[0]["name"], products[1]["name"] = "Rider's Hut", "RIDER’S\u00a0HUT"

    with pytest.raises(SpecError, match="occurs twice"):
        edit_task("products.yaml", rename)


def test_first_three_of_many_malformed_items_are_shown_and_all_counted(edit_task: EditTask) -> None:
    def spoil(products: list[dict[str, Any]]) -> None:
        products.extend({"name": f"Thing {number}"} for number in range(10_000))

    with pytest.raises(SpecError) as caught:
        edit_task("products.yaml", spoil)
    lines = str(caught.value).split("\n")
    assert len({line.split(": ")[1] for line in lines[:-1]}) == 3
    assert lines[-1].endswith("products.yaml: 9,997 more entries of items are malformed")


@pytest.mark.parametrize("tag", ["english", "en_GB", "jp", "", "e", "en-", "x" * 5_000, "en\n"])
def test_language_that_is_no_tag_is_refused(edit_task: EditTask, tag: str) -> None:
    with pytest.raises(SpecError, match=r"task.yaml: language: .* is not a BCP 47 language tag"):
        edit_task("task.yaml", lambda task: task.update(language=tag))


@pytest.mark.parametrize("tag", ["en", "pt-BR", "zh-Hant-TW", "de-1996", "fil", "EN-gb"])
def test_language_tag_is_accepted(edit_task: EditTask, tag: str) -> None:
    assert edit_task("task.yaml", lambda task: task.update(language=tag)).spec.language == tag


@pytest.mark.parametrize("role", ["teacher", "student", "judge"])
def test_missing_template_is_named(small_task: Task, role: str) -> None:
    file = small_task.folder / "prompts" / f"{role}.j2"
    file.unlink()
    assert error_of(small_task).startswith(f"{file}: this template is missing")


@pytest.mark.parametrize("role", ["teacher", "student", "judge"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ slogan }}", "'slogan' is undefined"),
        ("{{ company.slogan }}", "slogan"),
        ("{% if tone %}", "end of template"),
        ("{{ company.__class__ }}", "no attribute '__class__'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ company.name + 1 }}", "`+` between values"),
        ("{% for i in range(10**9) %}{% endfor %}", "a call is not allowed"),
        ("{{ tone | nofilter }}", "nofilter"),
        ("{% if post_type == 'Interactive' %}{{ slogan }}{% endif %}", "'slogan' is undefined"),
    ],
)
def test_invalid_template_is_named_with_the_reason(small_task: Task, role: str, text: str, said: str) -> None:
    file = small_task.folder / "prompts" / f"{role}.j2"
    append(file, text)
    message = error_of(small_task)
    assert message.startswith(f"{file}: ")
    assert said in message
    assert "correct the template" in message


@pytest.mark.parametrize("name", ["task.yaml"])
def test_key_that_occurs_twice_is_named_with_its_line(small_task: Task, name: str) -> None:
    path = small_task.folder / name
    first = path.read_text(encoding="utf-8").split(":")[0]
    line = len(path.read_text(encoding="utf-8").splitlines()) + 1
    append(path, f"{first}: again\n")
    message = error_of(small_task)
    assert message.startswith(f"{path}: ")
    assert f"the key {first!r} occurs twice; remove one (line {line})" in message


@pytest.mark.parametrize("name", ["task.yaml", "products.yaml", "prompts/teacher.j2"])
def test_file_that_is_not_utf8_is_named_with_the_place(small_task: Task, name: str) -> None:
    path = small_task.folder / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + "Größe".encode("latin-1"))
    assert error_of(small_task) == f"{path}: not UTF-8 text at byte {size + 2}; save it as UTF-8"


@pytest.mark.parametrize("name", ["products.yaml", "companies.yaml"])
def test_missing_file_of_items_is_named(small_task: Task, name: str) -> None:
    (small_task.folder / name).unlink()
    assert error_of(small_task).startswith(f"{small_task.folder / name}: there is no such file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tones: [a, b", "not valid YAML"),
        ("- a list", "a mapping of keys"),
        ("", "a mapping of keys"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_text_that_is_no_mapping_of_plain_values_is_refused(small_task: Task, text: str, said: str) -> None:
    path = small_task.folder / "task.yaml"
    path.write_text(text, encoding="utf-8")
    message = error_of(small_task)
    assert message.startswith(f"{path}: ")
    assert said in message


def test_unknown_task_names_those_there_are_and_the_setting() -> None:
    with pytest.raises(SpecError, match=r"task 'no_such_task'.*sales_posts.*SYNTHPOST_TASK"):
        load_task("no_such_task")
