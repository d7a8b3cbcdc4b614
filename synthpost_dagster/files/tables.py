"""Reads parquet files of users within limits: a file of a kilobyte can decode to a billion rows.

`artifacts.store` writes and reads the tables of artifacts.
"""

from pathlib import Path
from typing import Any

from synthpost_dagster.errors import SpecError

MAX_VALUES = 200_000_000
"""Values of all columns, by the file's footer."""
MAX_TEXT_BYTES = 4 * 1024**3
"""Bytes of all decoded values."""
_BATCH_ROWS = 16_384


def read_parquet(
    path: Path, columns: list[str] | None = None, max_values: int = MAX_VALUES, max_bytes: int = MAX_TEXT_BYTES
) -> Any:
    """The file's columns, or those named, as a `pyarrow.Table`.

    The counts and sizes in the footer are checked first. Repeated values stay dictionary-encoded until the decoded size
    is known, so that memory stays near the size of the file. Raises SpecError naming the file if it is no parquet file
    or too large.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, read_dictionary=_texts(pyarrow.parquet.read_schema(path))) as file:
            _check_footer(path, file.metadata, max_values, max_bytes)
            batches, size = [], 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                size += sum(_decoded_bytes(column) for column in batch.columns)
                if size > max_bytes:
                    raise _too_large(path, f"its values take more than {_gib(max_bytes)}")
                batches.append(pyarrow.record_batch([_decoded(one) for one in batch.columns], batch.schema.names))
            return pyarrow.Table.from_batches(batches) if batches else file.read(columns)
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file; give the path of a parquet file") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SpecError(f"{path}: not a readable parquet file ({reason}); write it again, or as CSV") from None


def _check_footer(path: Path, footer: Any, max_values: int, max_bytes: int) -> None:
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    values = max(
        footer.num_rows * footer.num_columns,
        sum(group.column(number).num_values for group in groups for number in range(group.num_columns)),
    )
    if values > max_values:
        raise _too_large(path, f"its footer states {footer.num_rows:,} rows and {values:,} values")
    if size > max_bytes:
        raise _too_large(path, f"its footer states {_gib(size)}")


def _too_large(path: Path, why: str) -> SpecError:
    return SpecError(f"{path}: too large: {why}; split the file, or keep only the columns that are needed")


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"


def _texts(schema: Any) -> list[str]:
    import pyarrow

    return [
        field.name for field in schema if pyarrow.types.is_string(field.type) or pyarrow.types.is_binary(field.type)
    ]


def _decoded_bytes(column: Any) -> int:
    """Size of a column with a value of its own for each row."""
    import pyarrow
    import pyarrow.compute

    if not pyarrow.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pyarrow.compute.binary_length(column.dictionary)
    return pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0


def _decoded(column: Any) -> Any:
    import pyarrow

    return column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
