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
    task["toned"] = task.pop("tones")
    task["quality"]["max_rejected_share"] = "often"
    task["universal_criteria"][1]["check"]["kinds"] = 1
    (folder / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    append(folder / "catalog.yaml", "colour: red\n")
    (folder / "prompts" / "judge.j2").unlink()
    lines = error_of(small_task).split("\n")
    said = [
        ("task.yaml", "unknown key universal_criteria[1].check.kinds;", "the keys here are kind (line "),
        ("task.yaml", "unknown key toned;", "(did you mean tones?)", "sweep, evaluation, quality (line "),
        ("task.yaml", "the key tones is missing; add it (line 1)"),
        ("task.yaml", "quality.max_rejected_share: ", "valid number", "(line "),
        ("catalog.yaml", "unknown key colour;", "the keys here are companies (line "),
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
    def rename(catalog: dict[str, Any]) -> None:
        first, second = catalog["companies"]
        first["products"]["train"][0]["name"], second["products"]["train"][0]["name"] = (
            "Rider's Hut",
            "RIDER’S\u00a0HUT",
        )

    with pytest.raises(SpecError, match="is named twice"):
        edit_task("catalog.yaml", rename)


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
        ("{% if post_type.name == 'Interactive' %}{{ slogan }}{% endif %}", "'slogan' is undefined"),
    ],
)
def test_invalid_template_is_named_with_the_reason(small_task: Task, role: str, text: str, said: str) -> None:
    file = small_task.folder / "prompts" / f"{role}.j2"
    append(file, text)
    message = error_of(small_task)
    assert message.startswith(f"{file}: ")
    assert said in message
    assert "correct the template" in message


@pytest.mark.parametrize("name", ["task.yaml", "catalog.yaml"])
def test_key_that_occurs_twice_is_named_with_its_line(small_task: Task, name: str) -> None:
    path = small_task.folder / name
    first = path.read_text(encoding="utf-8").split(":")[0]
    line = len(path.read_text(encoding="utf-8").splitlines()) + 1
    append(path, f"{first}: again\n")
    message = error_of(small_task)
    assert message.startswith(f"{path}: ")
    assert f"the key {first!r} occurs twice; remove one (line {line})" in message


@pytest.mark.parametrize("name", ["task.yaml", "catalog.yaml", "prompts/teacher.j2"])
def test_file_that_is_not_utf8_is_named_with_the_place(small_task: Task, name: str) -> None:
    path = small_task.folder / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + "Größe".encode("latin-1"))
    assert error_of(small_task) == f"{path}: not UTF-8 text at byte {size + 2}; save it as UTF-8"


def test_missing_catalog_is_named(small_task: Task) -> None:
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


def test_unknown_task_names_those_there_are_and_the_setting() -> None:
    with pytest.raises(SpecError, match=r"task 'no_such_task'.*sales_posts.*SYNTHPOST_TASK"):
        load_task("no_such_task")
