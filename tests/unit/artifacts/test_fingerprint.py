"""Hashes that are the same on every machine and change with what they are of."""

from __future__ import annotations

import pandas as pd
import pytest

from synthpost_dagster.artifacts.fingerprint import fingerprint, library_versions, table_digest
from synthpost_dagster.tasks.spec import Sweep


def table() -> pd.DataFrame:
    return pd.DataFrame({"id": ["a", "b"], "post": ["größe 🎉", 'say "hi"'], "seconds": [1.5, 2.5]})


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    parts = {"prompts": "abc", "rows": 88, "teacher": {"model": "embedded", "temperature": 1.0}}
    assert fingerprint(parts) == "a8831c104136bd2c"


def test_the_order_of_keys_does_not_count_at_any_depth() -> None:
    assert fingerprint({"a": 1, "b": {"c": [1, 2], "d": 2}}) == fingerprint({"b": {"d": 2, "c": [1, 2]}, "a": 1})


@pytest.mark.parametrize(
    "other",
    [{"a": 2, "b": [1, 2]}, {"a": 1, "b": [2, 1]}, {"a": 1}, {"a": "1", "b": [1, 2]}, {"a": 1, "b": [1, 2], "c": None}],
)
def test_every_other_change_counts(other: dict[str, object]) -> None:
    assert fingerprint(other) != fingerprint({"a": 1, "b": [1, 2]})


def test_a_record_counts_by_its_content() -> None:
    sweep = Sweep(data_sizes=(8, 88), steps=(50,))
    assert fingerprint({"p": sweep}) == fingerprint({"p": sweep.model_copy()})
    assert fingerprint({"p": sweep}) == fingerprint({"p": {"steps": [50], "data_sizes": [8, 88]}})
    assert fingerprint({"p": sweep}) != fingerprint({"p": sweep.model_copy(update={"steps": (60,)})})


def test_value_without_a_stable_text_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot fingerprint a set"):
        fingerprint({"a": {1, 2}})


def test_a_table_is_known_by_its_values_and_order() -> None:
    assert table_digest(table()) == table_digest(table().set_index(pd.Index([7, 8])))
    assert table_digest(table()) != table_digest(table().iloc[::-1])
    assert table_digest(table()) != table_digest(table().rename(columns={"post": "text"}))
    changed = table()
    changed.loc[1, "post"] = "say 'hi'"
    assert table_digest(table()) != table_digest(changed)


def test_small_numbers_that_differ_count() -> None:
    assert table_digest(pd.DataFrame({"loss": [1e-12]})) != table_digest(pd.DataFrame({"loss": [2e-12]}))


def test_rows_beyond_one_block_count() -> None:
    long = pd.DataFrame({"n": range(60_000)})
    changed = long.copy()
    changed.loc[59_999, "n"] = 0
    assert table_digest(long) != table_digest(changed)


def test_a_table_survives_parquet_with_the_same_digest(tmp_path: object) -> None:
    path = f"{tmp_path}/t.parquet"
    table().to_parquet(path, index=False)
    assert table_digest(pd.read_parquet(path)) == table_digest(table())


def test_a_librarys_version_is_without_the_label_of_its_build() -> None:
    found = library_versions("torch", "peft")
    assert set(found) == {"torch", "peft"}
    assert all("+" not in version for version in found.values())
