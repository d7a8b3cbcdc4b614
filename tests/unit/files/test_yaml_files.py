"""Files that people write are read safely, and a mistake in them is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.yaml_files import MAX_BYTES, read_mapping, read_record, read_text


class Shop(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    shelves: dict[str, list[int]] = {}


def written(folder: Path, text: str) -> Path:
    path = folder / "shop.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_is_read_into_its_record(tmp_path: Path) -> None:
    path = written(tmp_path, "# a shop\nname: Größe 🎉\nshelves: {top: [1, 2]}\n")
    assert read_record(path, Shop) == Shop(name="Größe 🎉", shelves={"top": [1, 2]})


def test_file_at_the_size_limit_is_read_and_one_above_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_text(path)) == MAX_BYTES
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SpecError) as caught:
        read_text(path)
    assert str(caught.value) == f"{path}: larger than 8 MiB; split the task into smaller ones"


def test_nested_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "name: x\nshelves:\n  top: [1]\n  top: [2]\n")
    with pytest.raises(
        SpecError, match=r"shop.yaml: not valid YAML: the key 'top' occurs twice; remove one \(line 4\)"
    ):
        read_record(path, Shop)


def test_wrong_type_is_named_by_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "name: x\nshelves: {top: [1, two]}\n")
    with pytest.raises(SpecError, match=r"shop.yaml: shelves.top\[1\]: "):
        read_record(path, Shop)


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_text(tmp_path)


def test_values_that_aliases_multiply_are_refused(tmp_path: Path) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path = written(tmp_path, "\n".join(["a0: &a0 [x]", *levels, "name: *a8"]))
    with pytest.raises(SpecError, match="its aliases stand for more than 1,000,000 values"):
        read_record(path, Shop)


def test_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="its aliases stand for more than 1,000,000 values"):
        read_record(written(tmp_path, "name: x\nshelves: &all {top: *all}\n"), Shop)


def test_aliases_that_nest_deeply_are_refused(tmp_path: Path) -> None:
    links = ", ".join(f"&a{number} [*a{number - 1}]" for number in range(1, 5_000))
    with pytest.raises(SpecError, match="its aliases stand for more than 1,000,000 values"):
        read_record(written(tmp_path, f"name: x\nshelves: [&a0 [1], {links}]\n"), Shop)


def test_alias_stands_for_its_value(tmp_path: Path) -> None:
    path = written(tmp_path, "name: x\nshelves: {top: &all [1, 2], low: *all}\n")
    assert read_record(path, Shop).shelves == {"top": [1, 2], "low": [1, 2]}


@pytest.mark.parametrize("opening", ["[", "{a: ", "[{a: "])
@pytest.mark.parametrize("depth", [100, 5_000, 1_000_000])
def test_deep_nesting_is_refused_without_a_crash(tmp_path: Path, opening: str, depth: int) -> None:
    with pytest.raises(SpecError, match=r"shop.yaml: not valid YAML: nested more than 100 levels deep"):
        read_record(written(tmp_path, "name: " + opening * depth), Shop)


def test_values_a_hundred_levels_deep_are_read(tmp_path: Path) -> None:
    shelf = "[" * 98 + "]" * 98
    path = written(tmp_path, f"shelves: {{{', '.join(f's{number}: {shelf}' for number in range(200))}}}")
    assert len(read_mapping(path)["shelves"]) == 200


def test_record_cannot_be_changed(tmp_path: Path) -> None:
    from synthpost_dagster.tasks.spec import Evaluation

    evaluation = read_record(written(tmp_path, "prompts: 3\n"), Evaluation)
    with pytest.raises(ValidationError):
        evaluation.prompts = 4


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("2026-02-30", "'2026-02-30' is no timestamp"),
        ("0x_", "'0x_' is no int"),
        ("!!int x", "'x' is no int"),
        ("!!float x", "'x' is no float"),
        ("!!bool x", "'x' is no bool"),
        ("!!timestamp x", "'x' is no timestamp"),
        ("!!binary é", "ascii"),
        ("9" * 5_000, "is no int"),
        ("!!int [1]", "expected a scalar node"),
        ("!!set x", "expected a mapping node"),
        ("!!omap x", "expected a sequence"),
        ("010", "'010' would be read in base 8 or 60"),
        ("1:30", "'1:30' would be read in base 8 or 60"),
        ("{[a]: b}", "a key is a list or a mapping"),
        ("{{a: b}: c}", "a key is a list or a mapping"),
        ("!python/name:os.system x", "could not determine a constructor"),
        ("*nothing", "undefined alias"),
        ("{<<: {top: [1]}}", "merge keys (<<) are not supported; write the keys out"),
    ],
)
def test_value_that_cannot_be_built_is_named_with_its_line(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_mapping(written(tmp_path, f"name: x\n\nshelves: {value}\n"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'shop.yaml'}: not valid YAML: ")
    assert said in message
    assert message.endswith("(line 3)")
    assert (len(message) < 400, "\n" in message) == (True, False)


def test_thousands_of_unknown_keys_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"key{number}: {number}\n" for number in range(3_000)))
    assert len(read_mapping(path)) == 3_000
    with pytest.raises(SpecError) as caught:
        read_record(path, Shop)
    lines = str(caught.value).split("\n")
    assert lines[0].endswith(
        "unknown key key0; remove it or correct its spelling; the keys here are name, shelves (line 1)"
    )
    assert (len(lines), lines[-1]) == (21, f"{path}: 2981 more mistakes like these")


def test_all_mistakes_of_a_file_are_listed_with_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "nam: x\nshelves:\n  top: [1, two]\n  low: up\n")
    with pytest.raises(SpecError) as caught:
        read_record(path, Shop)
    unknown, missing, item, shelf = str(caught.value).split("\n")
    hint = "remove it or correct its spelling (did you mean name?); the keys here are name, shelves (line 1)"
    assert unknown == f"{path}: unknown key nam; {hint}"
    assert missing == f"{path}: the key name is missing; add it (line 1)"
    assert (item.split(": ")[1], item.endswith("(line 3)")) == ("shelves.top[1]", True)
    assert (shelf.split(": ")[1], shelf.endswith("(line 4)")) == ("shelves.low", True)
