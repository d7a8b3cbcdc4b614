"""Parquet files that people bring are read within bounds."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthpost_dagster.errors import SpecError
from synthpost_dagster.files.tables import read_parquet


def written(folder: Path, **columns: pa.Array) -> Path:
    path = folder / "pairs.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", None, "a", "größer"]),
        "turns": pa.array([["x", "y"], [], None, ["z"]]),
        "number": pa.array([1.5, 2.0, None, 3.0]),
        "kind": pa.array(["p", "q", "p", "p"]).dictionary_encode(),
    }
    found = read_parquet(written(tmp_path, **columns))
    assert found.to_pydict() == {name: column.to_pylist() for name, column in columns.items()}


def test_only_named_columns_are_read_and_empty_tables_keep_them(tmp_path: Path) -> None:
    path = written(tmp_path, a=pa.array([], pa.string()), b=pa.array([], pa.int64()))
    assert (read_parquet(path).column_names, read_parquet(path, ["b"]).column_names) == (["a", "b"], ["b"])


def test_footer_with_too_many_values_is_refused_before_reading(tmp_path: Path) -> None:
    path = written(tmp_path, **{f"c{number}": pa.nulls(1_000_000, pa.string()) for number in range(3)})
    assert path.stat().st_size < 10_000
    tracemalloc.start()
    with pytest.raises(
        SpecError,
        match=r"pairs.parquet: too large: its footer states 1,000,000 rows and 3,000,000 values",
    ):
        read_parquet(path, max_values=2_000_000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_repeated_long_value_is_measured_before_it_is_copied(tmp_path: Path) -> None:
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 30_000, pa.int32()), ["x" * 1_000_000])
    path = written(tmp_path, a=value)
    assert path.stat().st_size < 2_000_000
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(SpecError, match="its values take more than"):
        read_parquet(path)
    assert pa.default_memory_pool().max_memory() - before < 100_000_000


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\x00" * 100 + b"PAR1", b"a,b\n1,2\n"])
def test_invalid_parquet_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"x.parquet: not a readable parquet file"):
        read_parquet(path)
    with pytest.raises(SpecError, match="there is no such file"):
        read_parquet(tmp_path / "missing.parquet")
