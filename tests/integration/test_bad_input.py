"""What a person can get wrong on the command line: one sentence that names file, key and remedy, and status 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.small_study import SmallStudy, edit_yaml
from tests.helpers.small_task import product_of


def unknown_key(study: SmallStudy) -> None:
    edit_yaml(study.task / "task.yaml", lambda task: task.__setitem__("colour", "green"))


def missing_template(study: SmallStudy) -> None:
    (study.task / "prompts" / "teacher.j2").unlink()


def broken_template(study: SmallStudy) -> None:
    (study.task / "prompts" / "student.j2").write_text("Write for {{ compani.name }}")


def product_twice(study: SmallStudy) -> None:
    def change(products: list[dict[str, Any]]) -> None:
        product_of(products, 1, "holdout")["name"] = product_of(products)["name"].upper()

    edit_yaml(study.task / "products.yaml", change)


def more_rows_than_there_are(study: SmallStudy) -> None:
    edit_yaml(study.task / "task.yaml", lambda task: task["sweep"]["data_sizes"].append(331))


def more_evaluation_than_there_is(study: SmallStudy) -> None:
    edit_yaml(study.task / "task.yaml", lambda task: task["evaluation"].__setitem__("prompts", 111))


def more_rows_in_the_profile(study: SmallStudy) -> None:
    edit_yaml(study.profile, lambda profile: profile["sweep"]["data_sizes"].append(331))


def key_missing_in_profile(study: SmallStudy) -> None:
    edit_yaml(study.profile, lambda profile: profile["training"].pop("seed"))


def no_yaml(study: SmallStudy) -> None:
    (study.task / "task.yaml").write_text("name: [sales")


def other_wording(study: SmallStudy) -> None:
    edit_yaml(study.task / "task.yaml", lambda task: task["factors"]["tone"]["levels"].__setitem__(0, "Grumpy"))


def nothing(study: SmallStudy) -> None:
    """The files are right; the arguments are not."""


@pytest.mark.parametrize(
    ("spoil", "arguments", "named"),
    [
        (unknown_key, ["run"], ["task.yaml", "unknown key colour", "remove it"]),
        (missing_template, ["run"], ["teacher.j2", "missing", "prompts/teacher.j2"]),
        (broken_template, ["run"], ["student.j2", "compani", "correct the template"]),
        (product_twice, ["run"], ["products.yaml: line ", "HARBOUR CRUISER", "occurs twice", "rename one"]),
        (more_rows_than_there_are, ["run"], ["task.yaml", "sweep.data_sizes", "331", "330", "lower the size"]),
        (more_evaluation_than_there_is, ["run"], ["task.yaml", "evaluation.prompts", "111", "110", "lower the number"]),
        (
            more_rows_in_the_profile,
            ["run"],
            ["profile.yaml", "sweep.data_sizes", "331", "330", "lower it", "task.yaml"],
        ),
        (key_missing_in_profile, ["run"], ["profile.yaml", "training.seed", "add it"]),
        (no_yaml, ["run"], ["task.yaml", "not valid YAML"]),
        (nothing, ["run", "--profile", "huge"], ["profile 'huge'", "tiny", "--profile"]),
        (nothing, ["run", "--task", "poems"], ["task 'poems'", "sales_posts", "--task"]),
        (nothing, ["run", "--data-sizes", "8,12"], ["--data-sizes", "12", "8, 16", "sweep"]),
        (nothing, ["run", "--steps", "7"], ["--steps", "7", "3, 1-epoch", "sweep"]),
        (unknown_key, ["report"], ["task.yaml", "unknown key colour"]),
        (unknown_key, ["ui"], ["task.yaml", "unknown key colour"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else " ".join(value),
)
def test_bad_input_is_one_sentence_with_its_remedy(
    fresh: SmallStudy, spoil: Callable[[SmallStudy], None], arguments: list[str], named: list[str]
) -> None:
    spoil(fresh)
    done = fresh.call(*arguments)
    assert_one_sentence(done.returncode, done.stderr, named)
    assert done.stdout == ""
    assert not fresh.home.exists(), "something was written into the home"


def test_home_that_is_a_file_is_refused_and_left_as_it_was(fresh: SmallStudy) -> None:
    fresh.home.write_text("precious")
    done = fresh.command("run")
    assert_one_sentence(done.returncode, done.stderr, [str(fresh.home), "cannot be written", "--home"])
    assert fresh.home.read_text() == "precious"


def test_task_that_the_embedded_model_was_not_trained_on_is_refused(fresh: SmallStudy) -> None:
    other_wording(fresh)
    done = fresh.call("run")
    assert_one_sentence(done.returncode, done.stderr, [str(fresh.task), "not trained on", "allow_untrained_task"])
    assert not list((fresh.home / "storage").glob("synthetic_rows/*/*"))


def test_report_of_nothing_says_what_to_materialize(fresh: SmallStudy) -> None:
    done = fresh.call("report")
    assert_one_sentence(done.returncode, done.stderr, ["no cell of the profile tiny has verdicts yet", "materialize"])
    assert not (fresh.home / "report").exists()


@pytest.mark.parametrize("arguments", [["-h"], ["run", "--help"], ["demo", "-h"]], ids=" ".join)
def test_help_lists_the_commands_and_writes_nothing(fresh: SmallStudy, arguments: list[str]) -> None:
    done = fresh.command(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
    assert "--help" in done.stdout
    assert done.stderr == ""
    assert not fresh.home.exists()


def test_help_loads_neither_dagster_nor_torch(fresh: SmallStudy) -> None:
    """Or it would not be there at once."""
    done = fresh.command("-h", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert not imported & {"dagster", "torch", "pandas", "pandera"}


def test_unknown_command_is_named(fresh: SmallStudy) -> None:
    done = fresh.command("dance")
    assert done.returncode == 2
    assert "No such command 'dance'" in done.stderr
    assert "Traceback" not in done.stderr


def assert_one_sentence(status: int, stderr: str, named: list[str]) -> None:
    lines = stderr.strip().splitlines()
    assert status == 2, stderr
    assert len(lines) == 1, stderr
    assert lines[0].startswith("synthpost: ")
    assert "Traceback" not in stderr
    for part in named:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


def test_cell_without_its_upstream_says_what_to_materialize(fresh: SmallStudy) -> None:
    from synthpost_dagster.cell import Cell
    from synthpost_dagster.console import Terminal
    from synthpost_dagster.errors import SynthpostError
    from synthpost_dagster.orchestration.driver import execute, open_driver
    from synthpost_dagster.stages.planning import Run

    with open_driver(fresh.settings, Terminal()) as sweep:
        with pytest.raises(SynthpostError, match=r"^cell 8\|3: .* does not exist .*materialize") as raised:
            execute(sweep.definitions, sweep.instance, Run("cell", cells=(Cell(8, "3"),)))
        assert "synthpost run" in str(raised.value)
        assert "\n" not in str(raised.value)
        (run,) = sweep.instance.get_runs()
    assert run.status.value == "FAILURE"
    assert not fresh.manifests()
    shutil.rmtree(fresh.home)
