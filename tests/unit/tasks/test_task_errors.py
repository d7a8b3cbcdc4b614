"""A task that is wrong gives one error that names the file, the key and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.tasks.loading import Task, load_task

EditTask = Callable[[str, Callable[[dict[str, Any]], object]], Task]


def error_of(task: Task) -> str:
    """The message that loading the task's folder gives."""
    with pytest.raises(SpecError) as caught:
        load_task(str(task.folder))
    return str(caught.value)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def set_in(*path: Any) -> Callable[[dict[str, Any]], None]:
    """`set_in("sweep", "data_sizes", [1])` sets that key."""

    def change(content: Any) -> None:
        for part in path[:-2]:
            content = content[part]
        content[path[-2]] = path[-1]

    return change


def rename_holdout(catalog: dict[str, Any]) -> None:
    """Gives the second company's holdout product the name of the first one's train product, in capitals."""
    first, second = catalog["companies"]
    second["products"]["holdout"][0]["name"] = first["products"]["train"][0]["name"].upper()


def rename_company(catalog: dict[str, Any]) -> None:
    catalog["companies"][1]["name"] = catalog["companies"][0]["name"].lower()


def drop_mission(catalog: dict[str, Any]) -> None:
    del catalog["companies"][1]["mission"]


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("task.yaml", set_in("tonez", ["Loud"]), ["unknown key tonez", "remove it"]),
        ("task.yaml", set_in("quality", "max_lies", 1), ["unknown key quality.max_lies"]),
        ("task.yaml", set_in("post_types", 3, "colour", "red"), ["unknown key post_types[3].colour"]),
        ("task.yaml", set_in("universal_criteria", 0, "check", "max_wordz", 3), ["universal_criteria[0].check"]),
        ("task.yaml", set_in("universal_criteria", 0, "check", "kind", "mood"), ["universal_criteria[0].check"]),
        ("task.yaml", set_in("name", "Sales Posts"), ["name:"]),
        ("task.yaml", set_in("tones", ["Witty", "witty"]), ["tones: witty is named twice"]),
        ("task.yaml", set_in("sweep", "data_sizes", [88, 8]), ["sweep.data_sizes:", "ascending"]),
        ("task.yaml", set_in("sweep", "steps", [50, "epoch"]), ["sweep.steps:", "'epoch'"]),
        ("task.yaml", set_in("sweep", "steps", [50, "50"]), ["sweep.steps:"]),
        ("task.yaml", set_in("sweep", "data_sizes", [88, 221]), ["sweep.data_sizes:", "221", "220", "add products"]),
        ("task.yaml", set_in("evaluation", "prompts", 111), ["evaluation.prompts:", "111", "110", "holdout products"]),
        ("task.yaml", set_in("quality", "max_rejected_share", 1.1), ["quality.max_rejected_share:"]),
        (
            "task.yaml",
            set_in("post_types", 0, "length", "huge"),
            ["post_types: Promotional", "'huge'", "long, medium, short"],
        ),
        (
            "task.yaml",
            set_in("post_types", 0, "criteria", 0, "check", "regex", "(unclosed"),
            ["post_types[0].criteria[0].check.regex:", "not a regular expression"],
        ),
        (
            "task.yaml",
            set_in("post_types", 0, "criteria", 0, "id", "hook"),
            ["post_types: Promotional", "'hook' twice"],
        ),
        ("catalog.yaml", rename_holdout, ["is named twice", "Pedrowick.products.train", "products.holdout", "rename"]),
        ("catalog.yaml", rename_company, ["company 'pedrowick' is named twice", "rename"]),
        ("catalog.yaml", drop_mission, ["companies[1].mission is missing", "add it"]),
        ("catalog.yaml", set_in("companies", 0, "name", "a|b"), ["companies[0].name:"]),
        ("catalog.yaml", set_in("companies", 0, "products", "holdout", []), ["companies[0].products.holdout:"]),
    ],
)
def test_a_wrong_key_is_named_with_its_file(
    edit_task: EditTask, small_task: Task, file: str, change: Callable[[dict[str, Any]], None], said: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        edit_task(file, change)
    message = str(caught.value)
    assert message.startswith(f"{small_task.folder / file}: ")
    assert [part for part in said if part not in message] == []
    assert "\n" not in message


def test_several_mistakes_in_a_file_are_counted(edit_task: EditTask) -> None:
    with pytest.raises(SpecError, match=r"unknown key one.*\(1 more in this file\)"):
        edit_task("task.yaml", lambda task: task.update(one=1, two=2))


@pytest.mark.parametrize("role", ["teacher", "student", "judge"])
def test_a_missing_template_is_named(small_task: Task, role: str) -> None:
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
        ("{% if post_type.name == 'Interactive' %}{{ slogan }}{% endif %}", "'slogan' is undefined"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_named_with_the_reason(
    small_task: Task, role: str, text: str, said: str
) -> None:
    file = small_task.folder / "prompts" / f"{role}.j2"
    append(file, text)
    message = error_of(small_task)
    assert message.startswith(f"{file}: ")
    assert said in message
    assert "correct the template" in message


@pytest.mark.parametrize("name", ["task.yaml", "catalog.yaml"])
def test_a_key_that_stands_twice_is_named_with_its_line(small_task: Task, name: str) -> None:
    path = small_task.folder / name
    first = path.read_text(encoding="utf-8").split(":")[0]
    line = len(path.read_text(encoding="utf-8").splitlines()) + 1
    append(path, f"{first}: again\n")
    message = error_of(small_task)
    assert message.startswith(f"{path}: ")
    assert f"the key {first!r} stands twice (line {line})" in message


@pytest.mark.parametrize("name", ["task.yaml", "catalog.yaml", "prompts/teacher.j2"])
def test_a_file_that_is_not_utf8_is_named_with_the_place(small_task: Task, name: str) -> None:
    path = small_task.folder / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + "Größe".encode("latin-1"))
    assert error_of(small_task) == f"{path}: not UTF-8 text at byte {size + 2}; save it as UTF-8"


def test_a_missing_catalog_is_named(small_task: Task) -> None:
    (small_task.folder / "catalog.yaml").unlink()
    assert error_of(small_task).startswith(f"{small_task.folder / 'catalog.yaml'}: there is no such file")


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


def test_an_unknown_task_names_those_there_are_and_the_setting() -> None:
    with pytest.raises(SpecError, match=r"task 'no_such_task'.*sales_posts.*SYNTHPOST_TASK"):
        load_task("no_such_task")
