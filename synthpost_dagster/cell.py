"""A cell of the sweep: a data size and a training length."""

from __future__ import annotations

from typing import NamedTuple

from synthpost_dagster.errors import SpecError


class Cell(NamedTuple):
    """One point of the sweep; `seed` is None for the profile's training.seed, or one of its further seeds."""

    data_size: int
    steps: str
    seed: int | None = None

    @property
    def key(self) -> str:
        """The partition key, such as `88|50`."""
        return f"{self.data_size}|{self.steps}"

    @property
    def place(self) -> str:
        """Where its artifacts are kept: the key, and the seed where it is a further one."""
        return self.key if self.seed is None else f"{self.key}|{self.seed}"

    @property
    def main(self) -> Cell:
        """The cell under training.seed."""
        return self._replace(seed=None)

    @property
    def label(self) -> str:
        """The cell in words, such as `1,760 rows | 1 epoch`."""
        return f"{self.data_size:,} rows | {steps_label(self.steps)}"

    @property
    def sweep_order(self) -> tuple[int, bool, int]:
        """Sorts by data size, then by number of steps, epochs last."""
        return (self.data_size, *steps_order(self.steps))

    @classmethod
    def parse(cls, key: str) -> Cell:
        """The cell of a partition key. Raises SpecError where it is none."""
        size, bar, steps = key.partition("|")
        if not bar or not size.isdecimal() or not steps:
            raise SpecError(f"{key!r} is not a cell; write data size and steps, such as 88|50")
        return cls(int(size), steps)

    @classmethod
    def at(cls, place: str) -> Cell:
        """The cell of a place, with its seed where the place names one. Raises SpecError where it is none."""
        size, _, rest = place.partition("|")
        steps, _, seed = rest.partition("|")
        return cls.parse(f"{size}|{steps}")._replace(seed=int(seed) if seed else None)


def steps_label(steps: str) -> str:
    """A length of training in words: `50` → `50 steps`, `1-epoch` → `1 epoch`."""
    count, _, unit = steps.partition("-")
    return f"{int(count):,} {unit or 'step'}{'' if count == '1' else 's'}"


def steps_order(steps: str) -> tuple[bool, int]:
    """Sorts lengths of training: numbers of steps, then epochs."""
    count, _, unit = steps.partition("-")
    return unit != "", int(count)
