"""The two dimensions of the sweep as Dagster partitions.

https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from typing import NamedTuple

from dagster import MultiPartitionKey, MultiPartitionsDefinition, StaticPartitionsDefinition

from synthpost_dagster.cell import Cell
from synthpost_dagster.profiles.spec import Cells
from synthpost_dagster.tasks.spec import Sweep


class Partitions(NamedTuple):
    """`size` keys such as `88`; `cell` keys such as `88|50`. One pair of objects, so that mappings are inferred."""

    size: StaticPartitionsDefinition
    cell: MultiPartitionsDefinition


def build_partitions(defaults: Sweep, sweep: Cells) -> Partitions:
    """The partitions of a task's default sweep and of a profile's sweep."""
    sizes = sorted({*defaults.data_sizes, *sweep.data_sizes})
    size = StaticPartitionsDefinition([str(size) for size in sizes])
    steps = StaticPartitionsDefinition(list(dict.fromkeys(map(str, (*defaults.steps, *sweep.steps)))))
    return Partitions(size, MultiPartitionsDefinition({"data_size": size, "steps": steps}))


def key_of(cell: Cell) -> MultiPartitionKey:
    """The partition key of a cell."""
    return MultiPartitionKey({"data_size": str(cell.data_size), "steps": cell.steps})
